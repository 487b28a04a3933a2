"""`voc07`: multi-label classification on PASCAL VOC2007."""

import os

import numpy as np

from burn_timm.data.published import Published, whole_number
from burn_timm.data.sources import Files, ImageSource
from burn_timm.errors import BurnError

VOC07 = Published(
    "voc07", {"train": 2501, "val": 2510, "trainval": 5011, "test": 4952}, 20, ("VOC2007", "VOCdevkit/VOC2007"),
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/ (VOCtrainval_06-Nov-2007.tar; test: VOCtest_06-Nov-2007.tar)",
)
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
_LISTS = "ImageSets/Main"


def open_voc07(data_dir: str | None, split: str) -> ImageSource:
    """PASCAL VOC2007: split 'train' (2,501), 'val' (2,510), 'trainval' (5,011: the published SVMs train on it) or
    'test' (4,952), 20 classes, several in an image.

    `data_dir`, or VOC2007 or VOCdevkit/VOC2007 in it, holds ImageSets/Main/CLASS_SPLIT.txt (lines of an image's name
    and 1, 0 or -1) and JPEGImages/. The source's `label_matrix` is int8 [N, 20]: 1 where the class is there, -1 where
    it is not, 0 where all there is of it is marked "difficult". Raises BurnError naming the file that is missing or
    malformed, and if a listed image is missing.
    """
    root = VOC07.locate(data_dir, split, _LISTS)
    names, labels = read_lists(root, split)
    files = Files(root, [f"JPEGImages/{name}.jpg" for name in names])
    VOC07.require(files)
    return VOC07.source(data_dir, split, files, list(CLASSES), label_matrix=labels)


def read_lists(root: str, split: str) -> tuple[list[str], np.ndarray]:
    """Names of the images and their labels, int8 [N, 20], from the 20 lists of `split` below `root`."""
    names: list[str] = []
    columns = []
    for kind in CLASSES:
        file = f"{_LISTS}/{kind}_{split}.txt"
        where = os.path.join(root, file)
        pairs = list(VOC07.pairs(root, file, "1, 0 or -1"))
        if names and [name for name, _ in pairs] != names:
            raise BurnError(f"{where}: lists other images than {CLASSES[0]}_{split}.txt")
        names = [name for name, _ in pairs]
        columns.append([whole_number(text, -1, 1, f"{where}, {name}") for name, text in pairs])
    return names, np.array(columns, dtype=np.int8).T.copy()
