"""Pooled features whose mean over the training images is zero, at no cost in the exported network."""

import logging

import torch

from ..data.loader import eval_loader
from ..data.sources import ImageSource, random_subset
from ..data.stream import StreamSource
from ..errors import BurnError
from ..evals.features import eval_transform, extract_features
from ..models.protocol import is_binary
from .export import export_config
from .options import Options

_logger = logging.getLogger(__name__)

IMAGES, BATCH = 1024, 128


@torch.no_grad()
def centre(
    student: torch.nn.Module, options: Options, images: ImageSource | StreamSource, device: torch.device,
    classifier: torch.nn.Linear | None = None,
) -> bool:
    """Let the pooled features `[B, D]` of a binary network have mean 0 over 1,024 training images (a stream's first).

    The shortcuts of ReActNet carry every learned shift to the end, so that all images share a vector, often four to six
    times as long as what tells them apart; a new classifier then diverges at usual learning rates. The last shift can
    take that vector away, and `classifier`, on these features, gets it back in its bias: its logits stay. The paper
    does not have this step.

    Returns:
        Whether they have it now. Networks that do not end in a shift stay as they are, and so do features with a hidden
        layer (`head_hidden_size`) or of two poolings (`catavgmax`). Images that cannot be read, and features that are
        not finite, leave a warning instead of an error, which would cost the export.
    """
    if not is_binary(student) or getattr(student.head, "hidden_size", None):
        return False
    subset = images if images.streaming else random_subset(images, IMAGES, options.seed)
    loader = eval_loader(subset, eval_transform(export_config(options, student)), BATCH, options.workers, IMAGES)
    try:
        mean = extract_features(student, loader, device)[0].mean(0).to(device)
    except BurnError as error:
        _logger.warning(f"features are not centred: {error}")
        return False
    *_, last = student.binary_units()
    if mean.shape != last.act.shift2.bias.shape:  # two poolings
        return False
    if not mean.isfinite().all():
        _logger.warning("features are not centred: some of them are NaN or infinite")
        return False
    last.act.shift2.bias.sub_(mean)
    if classifier is not None:
        classifier.bias.add_(classifier.weight @ mean)
    return True
