"""What a frozen teacher says of N fixed views of each image, computed once and kept in files.

View `which` of image `index` is drawn by a seed that is a function of these two alone: not of the run's seed, stage or
epoch. So runs share the files, and a step needs the student's view and a row of a file instead of the teacher. With
N = 1 there is nothing to draw: it is the whole photo.

A file holds one view of all images, float16 [images, D], without a header, written in the images' order: its length
says how far it has come, so that filling goes on where it was killed. Teacher and student see the same crop in the same
colours, each made at its own size.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from burn_timm.data.loader import ViewDataset, seed_for
from burn_timm.data.sources import ImageSource
from burn_timm.data.views import View
from burn_timm.errors import BurnError

_SALT = 0x7EAC4E5  # of the views' seeds: another value is another set of views
_SAMPLES = 16  # images whose pixels are part of the key


class TeacherCache:
    """The teacher's outputs for `count` views of each image of `source`, in `folder`.

    `key` is whatever determines an output besides the images: teacher, view, size and precision. `dim` is the outputs'
    length. Picklable; every process maps the files for itself.
    """

    def __init__(self, folder: str | os.PathLike, source: ImageSource, count: int, dim: int, key: object) -> None:
        known = _fingerprint(source, key)
        self.paths = [Path(folder) / f"teacher-{known}-{which}.f16" for which in range(count)]
        self.count, self.images, self.dim = count, len(source), dim
        self._rows = None

    def fill(self, source: ImageSource, view: View, outputs: Callable, batch_size: int, workers: int = 0) -> int:
        """Compute what is missing; returns how many outputs these were.

        `view` is the teacher's; `outputs` takes uint8 [batch_size, 3, S, S] and returns [batch_size, D].
        """
        computed = 0
        for which, path in enumerate(self.paths):
            done = path.stat().st_size // (2 * self.dim) if path.exists() else 0
            if done >= self.images:
                continue
            views = _OneView(source, view, which, range(done, self.images))
            loader = DataLoader(views, batch_size, num_workers=workers, generator=torch.Generator())
            bar = tqdm(total=self.images, initial=done, desc=f"teacher, view {which + 1} of {self.count}", unit="img")
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # by position: two runs may fill it side by side
            try:
                for images in loader:
                    n = len(images)
                    images = torch.cat([images, images[:1].expand(batch_size - n, -1, -1, -1)])  # compiled for one size
                    rows = outputs(images)[:n].to("cpu", torch.float16).numpy()
                    if not np.isfinite(rows).all():
                        raise BurnError("--cache-teacher: the teacher's outputs exceed float16 or are not finite")
                    os.pwrite(file, rows.tobytes(), done * 2 * self.dim)
                    done += n
                    computed += n
                    bar.update(n)
                os.fsync(file)
            except OSError as error:
                raise BurnError(f"--cache-teacher: {path}: {error.strerror or error}") from error
            finally:
                os.close(file)
                bar.close()
        return computed

    def read(self, which: int, index: int) -> torch.Tensor:
        """The output float16 [D] for view `which` of image `index`."""
        if self._rows is None:
            shape = (self.images, self.dim)
            self._rows = [np.memmap(path, np.float16, "r", shape=shape) for path in self.paths]
        return torch.from_numpy(np.array(self._rows[which][index]))

    def dataset(self, source: ImageSource, view: View, seed: int) -> "KeptViews":
        return KeptViews(source, view, seed, self)

    def __getstate__(self) -> dict:
        return {**vars(self), "_rows": None}


class KeptViews(ViewDataset):
    """As `ViewDataset` with one view, one of the cache's: an item has `teacher` too, float16 [1, D].

    Which view it is, is a function of (seed, epoch, index).
    """

    def __init__(self, source: ImageSource, view: View, seed: int, cache: TeacherCache) -> None:
        super().__init__(source, view, 1, seed)
        self.cache = cache

    def __getitem__(self, key: tuple[int, int]) -> dict:
        which = seed_for(self.seed, *key) % self.cache.count
        return {**self.item(key[1], view_seed(which, key[1])), "teacher": self.cache.read(which, key[1])[None]}


class _OneView(Dataset):
    """View `which` of the images `indices`."""

    def __init__(self, source: ImageSource, view: View, which: int, indices: range) -> None:
        self.views, self.which, self.indices = ViewDataset(source, view, 1, 0), which, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, at: int) -> torch.Tensor:
        index = self.indices[at]
        return self.views.item(index, view_seed(self.which, index))["views"][0]


def view_seed(which: int, index: int) -> int:
    """The seed of fixed view `which` of image `index`."""
    return seed_for(_SALT, which, index)


def _fingerprint(source: ImageSource, key: object) -> str:
    """16 hexadecimal digits of the images (description, listing, some pixels) and of `key`."""
    known = hashlib.sha256(repr((key, source.description, source.class_names, source.listing())).encode())
    for index in sorted({place * (len(source) - 1) // (_SAMPLES - 1) for place in range(_SAMPLES)}):
        try:
            image, _ = source.load(index)
        except Exception:  # an unreadable image is the training loop's business
            continue
        known.update(repr((index, image.size)).encode() + image.tobytes())
    return known.hexdigest()[:16]
