"""Pascal VOC's detection sets as they are published: VOCdevkit/VOC2007, VOC2012, as torchvision reads them."""

import logging
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torchvision.datasets import VOCDetection

from ...data.voc import CLASSES
from ...errors import BurnError

_logger = logging.getLogger(__name__)

LABELS = {name: number for number, name in enumerate(CLASSES, start=1)}  # 0 is the background
PUBLISHED_IMAGES = {
    "2007:train": 2501, "2007:val": 2510, "2007:trainval": 5011, "2007:test": 4952,
    "2012:train": 5717, "2012:val": 5823, "2012:trainval": 11540,
}
_ARCHIVES = {
    "2007": "VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar", "2012": "VOCtrainval_11-May-2012.tar",
}


@dataclass(frozen=True)
class VocImage:
    """One photo: boxes float32 [N, 4] (x1, y1, x2, y2) in pixels, continuous; labels int64 [N]; difficult bool [N]."""

    path: Path
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray

    def truth(self) -> dict[str, np.ndarray]:
        """What the evaluators take."""
        return {"boxes": self.boxes, "labels": self.labels, "difficult": self.difficult}


def check_name(name: str, option: str) -> None:
    """Raise BurnError unless `name` is YEAR:SET with a set that VOC publishes."""
    if name not in PUBLISHED_IMAGES:
        raise BurnError(f"{option} {name}: expected YEAR:SET, one of {', '.join(PUBLISHED_IMAGES)}")


def read_split(data_dir: str, name: str) -> list[VocImage]:
    """The photos of one split with their objects, in the order of its list.

    Args:
        data_dir: the folder that holds VOCdevkit, or VOCdevkit itself.
        name: `2007:trainval` and the like.

    Raises:
        BurnError: a file is missing or not what it should be (which one, and where to get it).
    """
    check_name(name, "split")
    year, image_set = name.split(":")
    root = Path(data_dir)
    if root.resolve().name == "VOCdevkit":
        root = root.resolve().parent
    folder = root / "VOCdevkit" / f"VOC{year}"
    source = (
        f"unpack {_ARCHIVES[year]} (http://host.robots.ox.ac.uk/pascal/VOC/voc{year}/) there, "
        f"so that --data-dir holds VOCdevkit/VOC{year}"
    )
    for part in (f"ImageSets/Main/{image_set}.txt", "Annotations", "JPEGImages"):
        if not (folder / part).exists():
            raise BurnError(f"{folder / part}: missing; {source}")
    try:
        listed = VOCDetection(str(root), year=year, image_set=image_set)
    except (OSError, RuntimeError, ValueError) as error:
        raise BurnError(f"{folder}: cannot be read ({error}); {source}") from error
    if not listed.images:
        raise BurnError(f"{folder / 'ImageSets/Main' / image_set}.txt: lists no image; {source}")
    present = {path.name for part in ("Annotations", "JPEGImages") for path in (folder / part).iterdir()}
    for path in (Path(path) for pair in zip(listed.images, listed.annotations, strict=True) for path in pair):
        if path.name not in present:
            raise BurnError(f"{path}: missing, though {image_set}.txt lists it; {source}")
    images = [_read(Path(image), Path(xml)) for image, xml in zip(listed.images, listed.annotations, strict=True)]
    if len(images) != PUBLISHED_IMAGES[name]:
        _logger.warning(
            "%s: %d images; the published set has %d, so the figures are not comparable with published ones",
            name, len(images), PUBLISHED_IMAGES[name],
        )
    return images


def counts(name: str, images: list[VocImage]) -> dict:
    """Images, boxes and difficult boxes of a split, and how many images the published one has."""
    return {
        "split": name, "images": len(images), "published_images": PUBLISHED_IMAGES[name],
        "boxes": sum(len(image.boxes) for image in images),
        "difficult": int(sum(image.difficult.sum() for image in images)),
        "classes": len({label for image in images for label in image.labels.tolist()}),
    }


def _read(image: Path, xml: Path) -> VocImage:
    try:
        objects = VOCDetection.parse_voc_xml(ET.parse(xml).getroot())["annotation"].get("object", [])
        labels = [LABELS[item["name"]] for item in objects]
        difficult = [item.get("difficult", "0") == "1" for item in objects]
        corners = [[float(item["bndbox"][key]) for key in ("xmin", "ymin", "xmax", "ymax")] for item in objects]
    except (ET.ParseError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BurnError(f"{xml}: no VOC annotation ({type(error).__name__}: {error}); unpack the set again") from error
    boxes = np.asarray(corners, dtype=np.float32).reshape(-1, 4)
    boxes[:, :2] -= 1  # inclusive 1-based pixels become a continuous box
    if (boxes[:, 2:] <= boxes[:, :2]).any():
        raise BurnError(f"{xml}: a box without area; expected xmin <= xmax and ymin <= ymax")
    return VocImage(image, boxes, np.asarray(labels, dtype=np.int64), np.asarray(difficult, dtype=bool))
