"""Pascal VOC's detection sets as published (VOCdevkit/VOC2007, VOC2012), and batches of their photos for a detector."""

import functools
import logging
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import pil_to_tensor

from ...data.loader import batches_of, epoch_order, seed_for
from ...data.published import VOC07
from ...data.published import VOC_CLASSES as CLASSES
from ...errors import BurnError

_logger = logging.getLogger(__name__)

LABELS = {name: number for number, name in enumerate(CLASSES, start=1)}  # 0 is the background
PUBLISHED_IMAGES = {
    **{f"2007:{split}": count for split, count in VOC07.images.items()},
    "2012:train": 5717, "2012:val": 5823, "2012:trainval": 11540,
}
_ARCHIVES = {
    "2007": "VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar", "2012": "VOCtrainval_11-May-2012.tar",
}
_CORNERS = ("xmin", "ymin", "xmax", "ymax")

Batch = list[tuple[torch.Tensor, dict[str, torch.Tensor]]]


@dataclass(frozen=True)
class VocImage:
    """One photo: boxes float32 [N, 4] (x1, y1, x2, y2) in pixels, continuous; labels int64 [N]; difficult bool [N]."""

    path: Path
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray


def read_split(data_dir: str, name: str) -> list[VocImage]:
    """The photos of one split with their objects, in the order of its list.

    Args:
        data_dir: The folder that holds VOCdevkit, or VOCdevkit itself.
        name: A key of PUBLISHED_IMAGES, YEAR:SET.

    Raises:
        BurnError: A file is missing or malformed (which one, and where to get it).
    """
    year, image_set = name.split(":")
    root = Path(data_dir)
    folder = (root if root.resolve().name == "VOCdevkit" else root / "VOCdevkit") / f"VOC{year}"
    source = (
        f"unpack {_ARCHIVES[year]} (http://host.robots.ox.ac.uk/pascal/VOC/voc{year}/) there, "
        f"so that --data-dir holds VOCdevkit/VOC{year}"
    )
    image_list = folder / "ImageSets" / "Main" / f"{image_set}.txt"
    for path in (image_list, folder / "Annotations", folder / "JPEGImages"):
        if not path.exists():
            raise BurnError(f"{path}: missing; {source}")
    stems = image_list.read_text(encoding="utf-8", errors="replace").split()
    if not stems:
        raise BurnError(f"{image_list}: lists no image; {source}")
    files = []
    for part, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        present = {path.name for path in (folder / part).iterdir()}  # one look, not one for each file
        files.append([folder / part / f"{stem}.{suffix}" for stem in stems])
        if missing := [path for path in files[-1] if path.name not in present]:
            raise BurnError(f"{missing[0]}: missing, though {image_set}.txt lists it; {source}")
    images = [_read(photo, xml) for photo, xml in zip(*files, strict=True)]
    if len(images) != PUBLISHED_IMAGES[name]:
        _logger.warning(
            "%s: %d images; the published set has %d, so the figures are not comparable with published ones",
            name, len(images), PUBLISHED_IMAGES[name],
        )
    return images


def _read(photo: Path, xml: Path) -> VocImage:
    try:
        root = ET.parse(xml).getroot()
        if root.tag != "annotation":
            raise ValueError(f"<{root.tag}> instead of <annotation>")
        objects = root.findall("object")
        labels = [LABELS[str(item.findtext("name")).strip()] for item in objects]
        difficult = [str(item.findtext("difficult")).strip() == "1" for item in objects]
        corners = [[float(item.findtext(f"bndbox/{key}")) for key in _CORNERS] for item in objects]
    except (ET.ParseError, KeyError, TypeError, ValueError) as error:
        raise BurnError(f"{xml}: no VOC annotation ({type(error).__name__}: {error}); unpack the set again") from error
    boxes = np.asarray(corners, dtype=np.float32).reshape(-1, 4)
    boxes[:, :2] -= 1  # inclusive 1-based pixels become a continuous box
    if not (boxes[:, 2:] > boxes[:, :2]).all():
        raise BurnError(f"{xml}: a box without area; expected xmin <= xmax and ymin <= ymax")
    return VocImage(photo, boxes, np.asarray(labels, dtype=np.int64), np.asarray(difficult, dtype=bool))


def counts(name: str, images: list[VocImage]) -> dict:
    """Images, boxes, difficult boxes and classes of a split, for the result file."""
    return {
        "split": name, "images": len(images), "boxes": sum(len(image.boxes) for image in images),
        "difficult": int(sum(image.difficult.sum() for image in images)),
        "classes": len({label for image in images for label in image.labels.tolist()}),
    }


def trainable(images: list[VocImage], difficult: bool) -> list[VocImage]:
    """The photos that have a box to train on, with these boxes; difficult ones only where `difficult` is set.

    Raises:
        BurnError: No photo has one.
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

    The photos come epoch after epoch in the order of (seed, epoch), and a batch may span two epochs; whether a photo is
    mirrored is a function of (seed, epoch, index). Raises BurnError for a photo that cannot be read.
    """

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> list[int]:
        return epoch_order(seed, epoch, len(images)).tolist()

    def key(position: int) -> tuple[int, int]:
        epoch, place = divmod(position, len(images))
        return epoch, order(epoch)[place]

    firsts = range(start * batch_size, stop * batch_size, batch_size)
    keys = ([key(position) for position in range(first, first + batch_size)] for first in firsts)
    return _load(_Photos(images, seed), keys, workers)


def test_batches(images: list[VocImage], workers: int) -> Iterator[Batch]:
    """All photos in order, not mirrored, one a batch: none is padded to another's size. Raises as `train_batches`."""
    return _load(_Photos(images, None), ([(0, index)] for index in range(len(images))), workers)


def _load(photos: "_Photos", keys: Iterable[list[tuple[int, int]]], workers: int) -> Iterator[Batch]:
    # The loader has a generator of its own, because it would draw from torch's.
    return batches_of(DataLoader(
        photos, batch_sampler=keys, num_workers=workers, collate_fn=list, generator=torch.Generator(),
    ))


class _Photos(Dataset):
    """Photos with their targets by (epoch, index), mirrored with probability one half unless `seed` is None."""

    def __init__(self, images: list[VocImage], seed: int | None):
        self.images, self.seed = images, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        image = self.images[key[1]]
        try:
            with warnings.catch_warnings(), Image.open(image.path) as photo:
                warnings.simplefilter("ignore")  # about metadata
                pixels = pil_to_tensor(photo.convert("RGB"))  # never turned by EXIF: boxes are of pixels as stored
        except Exception as error:  # decoders raise whatever they like
            kind = type(error).__name__
            raise BurnError(f"{image.path}: cannot be read as an image ({kind}); unpack the set again") from error
        boxes, labels = torch.from_numpy(image.boxes.copy()), torch.from_numpy(image.labels)
        if self.seed is not None and seed_for(self.seed, *key) % 2 == 0:
            pixels = pixels.flip(-1)
            boxes[:, [0, 2]] = pixels.shape[-1] - boxes[:, [2, 0]]
        return pixels, {"boxes": boxes, "labels": labels}
