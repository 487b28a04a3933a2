"""The images of a run: opened, checked, and with their steps counted."""

import logging
from dataclasses import dataclass

from ..data import TEST_SPLITS, align
from ..data.datasets import open_dataset
from ..data.loader import micro_steps_per_epoch
from ..data.sources import ImageSource
from ..data.stream import StreamSource
from ..errors import BurnError, NoSplitError
from ..methods import METHODS
from .options import Options

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """Training images; the same as --cache-size reduces them, of which views are made; and labelled images for figures,
    None where there are none."""

    train: ImageSource | StreamSource
    reduced: ImageSource | StreamSource
    val: ImageSource | None


def open_data(options: Options, tell: bool) -> Data:
    """Open the splits of a run.

    Args:
        tell: Warn of what a user might not expect.

    Raises:
        BurnError: A split is missing or cannot be opened, has no labels where they are needed, or shares images with
            the other one.
    """
    train = _open(options, options.train_split)
    if METHODS[options.method].needs_labels and (not train.labelled or train.streaming):
        raise BurnError(f"--method {options.method} needs labels, and no stream; {train.description}")
    if train.streaming and tell:
        _logger.warning(
            f"{train.description}: a stream. A resumed run sees other images than an unbroken one, so its weights are "
            "not the same; images that cannot be read are skipped without being counted"
        )
    reduced = train.cached(options.cache, options.cache_size, options.cache_dir)
    if not options.cache_size:
        train = reduced
    val = _open_val(options, train, tell)
    for option in ("knn_steps", "linear_steps"):
        if getattr(options, option) and val is None:
            raise BurnError(
                f"--{option.replace('_', '-')} needs labels: a --train-split and a --val-split that have them, and no "
                "stream"
            )
    return Data(train, reduced, val)


def _open(options: Options, split: str) -> ImageSource | StreamSource:
    return open_dataset(
        options.dataset, options.data_dir, split, options.input_key, options.target_key, options.dataset_download,
    )


def _open_val(options: Options, train: ImageSource | StreamSource, tell: bool) -> ImageSource | None:
    """The labelled split for figures, or None where there is none. One that is named must fit; of the usual ones the
    first that is there is taken where it fits, and a warning says why it does not."""
    named = options.val_split
    if named == "none":
        return None
    if train.streaming or not train.labelled:
        if named:
            raise BurnError(
                f"--val-split {named}: figures need training images with labels, and no stream; {train.description}; "
                "leave it out, or give none"
            )
        return None
    for split in [named] if named else TEST_SPLITS:
        try:
            val = _open(options, split)
            if not val.labelled:
                raise BurnError(f"{val.description}; name a split with labels")
            if shared := train.shared(val):
                raise BurnError(
                    f"{shared:,} of its {len(val):,} images are among those of --train-split {options.train_split}"
                )
            return align(val, train)
        except BurnError as error:
            if named:
                raise BurnError(f"--val-split {split}: {error}; name another split, or none") from error
            if not isinstance(error, NoSplitError):
                if tell:
                    _logger.warning(f"no kNN figures: split {split}: {error}; --val-split names another split, or none")
                return None
    return None


@dataclass(frozen=True)
class Steps:
    """How many optimiser steps a stage has: `total`, `warmup` of them at a rising learning rate."""

    per_epoch: int
    total: int
    warmup: int

    @property
    def epochs(self) -> float:
        return self.total / self.per_epoch


def count_steps(options: Options, images: int, processes: int) -> Steps:
    """Raises BurnError where there are too few images for one step, or the warm-up is longer than a stage."""
    accumulated = options.grad_accum_steps
    per_epoch = micro_steps_per_epoch(images, options.batch_size, processes) // accumulated
    if per_epoch == 0:
        raise BurnError(
            f"{images} images do not fill one step of {options.batch_size * processes * accumulated}; lower "
            "--grad-accum-steps"
        )
    total = min(options.epochs * per_epoch, options.max_steps or options.epochs * per_epoch)
    warmup = round(options.warmup_epochs * per_epoch)
    if warmup > total:
        raise BurnError(
            f"--warmup-epochs {options.warmup_epochs:g} is {warmup} steps, but a stage has {total}: the learning rate "
            "would never get there; lower it or train longer"
        )
    return Steps(per_epoch, total, warmup)
