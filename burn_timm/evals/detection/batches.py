"""Photos and targets for the detector, in an order that any iteration can be entered from."""

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import pil_to_tensor

from ...data.loader import epoch_order, seed_for
from ...errors import BurnError
from .voc import VocImage

Batch = list[tuple[torch.Tensor, dict[str, torch.Tensor]]]


def trainable(images: list[VocImage], difficult: bool) -> list[VocImage]:
    """The photos with what is trained on: without their difficult boxes unless `difficult`, and none without a box.

    Raises BurnError when nothing is left.
    """
    kept = []
    for image in images:
        use = np.ones_like(image.difficult) if difficult else ~image.difficult
        if use.any():
            kept.append(VocImage(image.path, image.boxes[use], image.labels[use], image.difficult[use]))
    if not kept:
        raise BurnError("--train-sets: no photo has a box to train on")
    return kept


def train_batches(
    images: list[VocImage], batch_size: int, seed: int, start: int, stop: int, workers: int,
) -> Iterator[Batch]:
    """The batches of iterations `start` to `stop` - 1: lists of (uint8 [3, H, W], {boxes float32 [N, 4], labels [N]}).

    The photos come epoch after epoch in the order of (seed, epoch), and a batch may span two epochs; the flip of a
    photo is a function of (seed, epoch, index). Raises BurnError for a photo that cannot be read.
    """
    keys = _Keys(len(images), batch_size, seed, start, stop)
    yield from _load(_Flipped(images, seed), keys, workers)


def test_batches(images: list[VocImage], batch_size: int, workers: int) -> Iterator[Batch]:
    """All photos in order, unflipped. Raises BurnError for a photo that cannot be read."""
    indices = range(len(images))
    keys = [list(indices[first : first + batch_size]) for first in range(0, len(images), batch_size)]
    yield from _load(_Plain(images), keys, workers)


def _load(dataset: Dataset, keys, workers: int) -> Iterator[Batch]:
    # a generator of its own: without it, starting a loader draws from the caller's
    loader = DataLoader(
        dataset, batch_sampler=keys, num_workers=workers, collate_fn=list, generator=torch.Generator(),
    )
    for batch in loader:
        for item in batch:
            if isinstance(item, str):  # raised here: a worker's exception arrives with its traceback as text
                raise BurnError(item)
        yield batch


class _Keys:
    """(epoch, index) of each photo of a batch, a list for each iteration."""

    def __init__(self, n: int, batch_size: int, seed: int, start: int, stop: int):
        self.n, self.batch_size, self.seed, self.start, self.stop = n, batch_size, seed, start, stop

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        orders: dict[int, list[int]] = {}
        for iteration in range(self.start, self.stop):
            keys = []
            for position in range(iteration * self.batch_size, (iteration + 1) * self.batch_size):
                epoch, place = divmod(position, self.n)
                if epoch not in orders:
                    orders = {epoch - 1: orders.get(epoch - 1), epoch: epoch_order(self.seed, epoch, self.n).tolist()}
                keys.append((epoch, orders[epoch][place]))
            yield keys


class _Plain(Dataset):
    """A photo and its target; what is wrong with it, in words, where it cannot be read."""

    def __init__(self, images: list[VocImage]):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        image = self.images[index]
        try:
            with warnings.catch_warnings(), Image.open(image.path) as photo:
                warnings.simplefilter("ignore")  # about metadata
                pixels = pil_to_tensor(photo.convert("RGB"))
        except Exception as error:  # decoders raise whatever they like
            return f"{image.path}: cannot be read as an image ({type(error).__name__}); unpack the set again"
        return pixels, {"boxes": torch.from_numpy(image.boxes.copy()), "labels": torch.from_numpy(image.labels)}


class _Flipped(_Plain):
    """A photo mirrored with probability one half; keys are (epoch, index)."""

    def __init__(self, images: list[VocImage], seed: int):
        super().__init__(images)
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]):
        item = super().__getitem__(key[1])
        if isinstance(item, str) or seed_for(self.seed, *key) % 2:
            return item
        pixels, target = item
        boxes = target["boxes"]
        boxes[:, [0, 2]] = pixels.shape[-1] - boxes[:, [2, 0]]
        return pixels.flip(-1), target
