"""`places205`: Places205 from its published lists."""

import os

import numpy as np

from burn_timm.data.listed import ListedImages, Published, locate, make_source, pairs_of, require_images, whole_number
from burn_timm.data.sources import ImageSource
from burn_timm.errors import BurnError

PLACES205 = Published(
    "places205", {"train": 2448873, "val": 20500}, 205, ("places205", "Places205"),
    "http://places.csail.mit.edu/downloadData.html (images256 and trainvalsplit_places205)",
)
_FOLDERS = ("data/vision/torralba/deeplearning/images256", "images256")
_LOOKED_FOR = 64


def open_places205(data_dir: str | None, split: str) -> ImageSource:
    """Places205 (Zhou et al., NeurIPS 2014): split 'train' (2,448,873) or 'val' (20,500), 205 classes.

    `data_dir` holds trainvalsplit_places205/{train,val}_places205.csv (lines of a path and a class, from 0) and
    images256/, or data/vision/torralba/deeplearning/images256/ as the archive unpacks. Only the first, the last and 62
    seeded images between are looked for here. Raises BurnError naming the file that is missing or malformed.
    """
    lists = "trainvalsplit_places205"
    root = locate(PLACES205, data_dir, split, lists)
    file = f"{lists}/{split}_places205.csv"
    where = os.path.join(root, file)
    names: dict[int, str] = {}
    paths, targets = [], []
    for path, text in pairs_of(PLACES205, root, file, "a class"):
        target = whole_number(text, 0, PLACES205.classes - 1, f"{where}, {path}")
        if target not in names:
            names[target] = os.path.dirname(path).partition("/")[2] or str(target)  # a/abbey/NAME.jpg
        paths.append(path)
        targets.append(target)
    folder = next((folder for folder in _FOLDERS if os.path.isdir(os.path.join(root, folder))), None)
    if folder is None:
        raise BurnError(
            f"--dataset places205: no folder {' or '.join(_FOLDERS)} in {root}; get the set from {PLACES205.origin}"
        )
    class_names = [names.get(target, str(target)) for target in range(PLACES205.classes)]
    images = ListedImages(os.path.join(root, folder), paths, class_names, targets)
    between = np.random.default_rng(0).integers(len(images), size=_LOOKED_FOR - 2).tolist()
    require_images(PLACES205, os.path.join(root, folder), images, sorted({0, *between, len(images) - 1}))
    return make_source(PLACES205, data_dir, split, images)
