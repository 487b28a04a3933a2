"""--cache-teacher: a frozen teacher's outputs for N fixed views of each image, computed once and kept in files.

View `which` of image `index` is drawn by a seed that is a function of these two alone: not of the run's seed, stage or
epoch. So runs share the files, and a step needs the student's view and a row of a file instead of the teacher. With
N = 1 there is nothing to draw: it is the view `none`.

A file holds one view of all images, float16 [images, D], without a header, written in the images' order: its length
says how far it has come, so that filling goes on where it was killed. Teacher and student see the same crop in the same
colours, each made at its own size.
"""

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..data.cache import SAMPLES, fingerprint, samples
from ..data.loader import ViewDataset, seed_for
from ..data.sources import ImageSource
from ..data.views import VIEWS, View, make_view
from ..errors import BurnError
from ..files import cache_folder
from ..nn import Backbone, Frozen
from .build import build_method, feature_dim
from .options import Options

_SALT = 0x7EAC4E5  # of the views' seeds: another value is another set of views
_logger = logging.getLogger(__name__)


def filled_cache(
    options: Options, source: ImageSource, teacher: Backbone, identity: dict, accelerator: Accelerator,
) -> "TeacherCache":
    """The cache of a run, filled. The first process of each machine fills it, the others wait.

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
    frozen = Frozen(teacher).to(accelerator.device)
    if options.channels_last:
        frozen = frozen.to(memory_format=torch.channels_last)
    if options.compile:
        frozen.module.compile(dynamic=False)

    def outputs(images: torch.Tensor) -> torch.Tensor:
        with accelerator.autocast():
            return frozen(images.to(accelerator.device))

    with accelerator.local_main_process_first():
        view = make_view(options.view, side, options.hflip, options.train_interpolation)
        computed = kept.fill(view, outputs, options.batch_size, options.workers)
    if accelerator.is_main_process and computed:
        _logger.info(f"{computed:,} outputs of the teacher are in {kept.paths[0].parent}")
    return kept


class TeacherCache:
    """The teacher's outputs for `count` views of each image of `source`, in `folder`.

    `key` is whatever determines an output besides the images: teacher, view, size and precision. `dim` is the outputs'
    length. Picklable; every process maps the files for itself.
    """

    def __init__(self, folder: str | os.PathLike, source: ImageSource, count: int, dim: int, key: object) -> None:
        known = fingerprint(source, samples(source, SAMPLES), key)
        self.paths = [Path(folder) / f"teacher-{known}-{which}.f16" for which in range(count)]
        self.source, self.dim = source, dim
        self._rows = None

    def fill(self, view: View, outputs: Callable, batch_size: int, workers: int = 0) -> int:
        """Compute what is missing; returns how many outputs these were.

        `view` is the teacher's; `outputs` takes uint8 [batch_size, 3, S, S] and returns [batch_size, D].
        """
        computed = 0
        for which, path in enumerate(self.paths):
            done = path.stat().st_size // (2 * self.dim) if path.exists() else 0
            if done == len(self.source):
                continue
            computed += len(self.source) - done
            loader = DataLoader(
                _FixedView(self.source, view, which), batch_size, sampler=range(done, len(self.source)),
                num_workers=workers, generator=torch.Generator(),
            )
            title = f"teacher, view {which + 1} of {len(self.paths)}"
            bar = tqdm(total=len(self.source), initial=done, desc=title, unit="img")
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # by position: two runs may fill it side by side
            try:
                for images in loader:
                    n = len(images)
                    images = torch.cat([images, images[:1].expand(batch_size - n, -1, -1, -1)])  # compiled for one size
                    rows = outputs(images)[:n].to("cpu", torch.float16).numpy()
                    if not np.isfinite(rows).all():
                        raise BurnError("--cache-teacher: the teacher's outputs exceed float16 or are not finite")
                    content = rows.tobytes()
                    if os.pwrite(file, content, done * 2 * self.dim) != len(content):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(file)  # the length must not become durable before the rows are
                    done += n
                    bar.update(n)
            except OSError as error:
                raise BurnError(f"--cache-teacher: {path}: {error.strerror or error}") from error
            finally:
                os.close(file)
                bar.close()
        return computed

    def read(self, which: int, index: int) -> torch.Tensor:
        """The output float16 [D] for view `which` of image `index`."""
        if self._rows is None:
            shape = (len(self.source), self.dim)
            self._rows = [np.memmap(path, np.float16, "r", shape=shape) for path in self.paths]
        return torch.from_numpy(np.array(self._rows[which][index]))

    def __getstate__(self) -> dict:
        return {**vars(self), "_rows": None}


class KeptViews(ViewDataset):
    """As `ViewDataset` with one view, one of the cache's: an item has `teacher` too, float16 [1, D].

    Which view it is, is a function of (seed, epoch, index).
    """

    def __init__(self, groups: dict[str, list[View]], seed: int, cache: TeacherCache) -> None:
        super().__init__(cache.source, groups, seed)
        self.cache = cache

    def __getitem__(self, key: tuple[int, int]) -> dict:
        which = seed_for(self.seed, *key) % len(self.cache.paths)
        return {**self.item(key[1], view_seed(which, key[1])), "teacher": self.cache.read(which, key[1])[None]}


class _FixedView(Dataset):
    """Fixed view `which` of each image."""

    def __init__(self, source: ImageSource, view: View, which: int) -> None:
        self.views, self.which = ViewDataset(source, {"views": [view]}, 0), which

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.views.item(index, view_seed(self.which, index))["views"][0]


def view_seed(which: int, index: int) -> int:
    """The seed of fixed view `which` of image `index`."""
    return seed_for(_SALT, which, index)
