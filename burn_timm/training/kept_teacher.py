"""--cache-teacher: the teacher's outputs for a run's fixed views, computed before the first step."""

import logging

import torch
from accelerate import Accelerator

from ..data.cache import cache_folder
from ..data.sources import ImageSource
from ..data.teacher_cache import TeacherCache
from ..data.views import VIEWS, make_view
from ..errors import BurnError
from ..nn import Backbone, Frozen
from .build import build_method, feature_dim
from .options import Options

_logger = logging.getLogger(__name__)


def keep_teacher(
    options: Options, source: ImageSource, teacher: Backbone, identity: dict, accelerator: Accelerator,
) -> TeacherCache:
    """The cache of this run, filled. The first process of each machine fills it, the others wait.

    Raises:
        BurnError: A stream, several views of an image, no space.
    """
    if source.streaming or not isinstance(options.view, str):
        raise BurnError("--cache-teacher needs images with random access, and one view of each")
    method = build_method(options, options.stages[0], 0, teacher, source.num_classes, epochs=1.0)
    if method.n_views > 1 or method.n_small_views:
        raise BurnError(f"--cache-teacher: this setting of {options.method} takes several views of an image")
    side = max(teacher.size)
    key = (
        identity, sorted(options.teacher_kwargs.items()), teacher.mean.tolist(), teacher.std.tolist(), options.view,
        VIEWS[options.view], side, options.hflip, options.train_interpolation, options.cache_size,
        accelerator.mixed_precision,
    )
    dim = feature_dim(teacher, side, "--teacher")
    kept = TeacherCache(cache_folder(options.cache_dir), source, options.cache_teacher, dim, key)
    device = accelerator.device
    frozen = Frozen(teacher).to(device)
    if options.channels_last:
        frozen = frozen.to(memory_format=torch.channels_last)
    if options.compile:
        frozen.module.compile(dynamic=False)

    def outputs(images: torch.Tensor) -> torch.Tensor:
        with accelerator.autocast():
            return frozen(images.to(device))

    with accelerator.local_main_process_first():
        view = make_view(options.view, side, options.hflip, options.train_interpolation)
        computed = kept.fill(source, view, outputs, options.batch_size, options.workers)
    if accelerator.is_main_process and computed:
        _logger.info(f"{computed:,} outputs of the teacher are in {kept.paths[0].parent}")
    return kept
