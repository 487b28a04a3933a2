"""Datasets, views and loaders. Start at `open_dataset`, `make_view` and `make_train_loader`."""

from burn_timm.data.corrupt import CorruptLog
from burn_timm.data.datasets import (
    PUBLISHED_SPLITS,
    TEST_SPLITS,
    mirror_probability,
    open_dataset,
)
from burn_timm.data.loader import (
    ViewDataset,
    epoch_order,
    eval_loader,
    make_train_loader,
    micro_steps_per_epoch,
    seed_for,
)
from burn_timm.data.sources import ImageSource, align, random_subset
from burn_timm.data.stream import StreamSource
from burn_timm.data.views import DEFAULT_INTERPOLATION, VIEWS, make_view
