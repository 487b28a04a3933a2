"""--cache-teacher: the teacher's outputs for a run's fixed views, computed before the first step."""

import argparse
import logging

import torch
from accelerate import Accelerator

from ..data.cache import cache_folder
from ..data.sources import ImageSource
from ..data.teacher_cache import TeacherCache
from ..data.views import VIEWS, make_view
from ..errors import BurnError
from ..nn import Backbone, Frozen
from .networks import feature_dim

_logger = logging.getLogger(__name__)


def keep_teacher(
    args: argparse.Namespace, source: ImageSource, teacher: Backbone, identity: dict, accelerator: Accelerator,
) -> TeacherCache:
    """The cache of this run, filled. The first process of each machine fills it, the others wait.

    Raises:
        BurnError: A stream, a view for each image of its own, no space.
    """
    if source.streaming or not isinstance(args.view, str):
        raise BurnError("--cache-teacher needs images with random access, and one view of each")
    side = max(teacher.size)
    key = (identity, args.view, VIEWS[args.view], side, args.hflip, args.train_interpolation, args.cache_size,
           accelerator.mixed_precision)
    dim = feature_dim(teacher, side, "--teacher")
    kept = TeacherCache(cache_folder(args.cache_dir), source, args.cache_teacher, dim, key)
    device = accelerator.device
    frozen = Frozen(teacher).to(device)
    if args.channels_last:
        frozen = frozen.to(memory_format=torch.channels_last)
    if args.compile:
        frozen.module.compile(dynamic=False)

    def outputs(images: torch.Tensor) -> torch.Tensor:
        with accelerator.autocast():
            return frozen(images.to(device))

    with accelerator.local_main_process_first():
        view = make_view(args.view, side, args.hflip, args.train_interpolation)
        computed = kept.fill(source, view, outputs, args.batch_size, args.workers)
    if accelerator.is_main_process and computed:
        _logger.info(f"{computed:,} outputs of the teacher are in {kept.paths[0].parent}")
    return kept
