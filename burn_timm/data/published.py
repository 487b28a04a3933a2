"""`cub`, `birdsnap`, `places205` and `voc07` from the files that their authors published."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from burn_timm.data.sources import Files, ImageSource, shown_path
from burn_timm.errors import BurnError, NoSplitError

_logger = logging.getLogger(__name__)
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
_PLACES_FOLDERS = ("data/vision/torralba/deeplearning/images256", "images256")
_LOOKED_FOR = 64  # images of a split, at even distances, that must be on disk when it is opened


@dataclass(frozen=True)
class Found:
    """What the files of a split list: paths of images below `folder`, the names of all classes, and labels."""

    folder: str
    paths: list[str]
    class_names: list[str]
    targets: list[int] | None = None
    label_matrix: np.ndarray | None = None
    note: str = ""  # for the title


@dataclass(frozen=True)
class Published:
    """A set as its authors published it.

    `read` takes the folder that holds the file or folder `marker`, and a split; it raises BurnError, which names the
    wrong or missing file.
    """

    name: str
    images: dict[str, int]  # how many each split has; the last two are those that others train and test on
    classes: int
    folders: tuple[str, ...]  # where in the archive the files lie
    marker: str
    read: Callable[[str, str], Found]
    origin: str  # where to get it

    def open(self, data_dir: str | None, split: str) -> ImageSource:
        """The images of a split; a warning where their number is not the published one.

        Raises BurnError, which says where to get the set, for a missing or malformed file, and where one of the images
        that are looked for, which are spread over the split, is missing.
        """
        if split not in self.images:
            raise NoSplitError(f"--dataset {self.name}: no split {split!r}; available: {', '.join(self.images)}")
        try:
            if not data_dir:
                raise BurnError("name its folder by --data-dir")
            if not os.path.isdir(data_dir):
                raise BurnError(f"--data-dir {data_dir}: no such folder")
            found = self.read(self._root(data_dir), split)
            files = Files(found.folder, found.paths)
            title = f"{self.name} {shown_path(data_dir)} [{split}]{found.note}"
            if not len(files):
                raise BurnError(f"{title}: no image")
            for place in range(_LOOKED_FOR):
                path = found.paths[place * (len(files) - 1) // (_LOOKED_FOR - 1)]
                if not os.path.isfile(os.path.join(found.folder, path)):
                    raise BurnError(f"{path} is missing from {found.folder}")
        except BurnError as error:
            raise BurnError(f"--dataset {self.name}: {error}; get the set from {self.origin}") from error
        if len(files) != self.images[split] or len(found.class_names) != self.classes:
            _logger.warning(
                "%s: %s images of %d classes; the published split has %s of %d",
                title, f"{len(files):,}", len(found.class_names), f"{self.images[split]:,}", self.classes,
            )
        return ImageSource(files, title, found.targets, found.class_names, label_matrix=found.label_matrix)

    def _root(self, data_dir: str) -> str:
        """`data_dir` itself or one of the archive's folders in it; the one in which the marker is, or should be."""
        candidates = [data_dir, *(os.path.join(data_dir, folder) for folder in self.folders)]
        holding = [folder for folder in candidates if os.path.exists(os.path.join(folder, self.marker))]
        return (holding or [folder for folder in candidates[1:] if os.path.isdir(folder)] or candidates)[0]


def _rows(root: str, file: str, columns: int | None = None, separator: str | None = None) -> list[list[str]]:
    """The lines of root/file that are not blank, split from the right into `columns` words, or into as many as the
    first line has."""
    path = os.path.join(root, file)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as lines:  # as os.fsencode undoes it
            rows = [line.rstrip("\r\n").rsplit(separator, (columns or 0) - 1) for line in lines if not line.isspace()]
    except OSError as error:
        reason = "no file" if isinstance(error, FileNotFoundError) else f"{error.strerror}:"
        raise BurnError(f"{reason} {file} in {root}") from error
    if not rows:
        raise BurnError(f"{path} is empty")
    columns = columns or len(rows[0])
    for number, row in enumerate(rows, start=1):
        if len(row) != columns:
            raise BurnError(f"{path}, entry {number}: {len(row)} words, {columns} expected")
    return rows


def _number(text: str, low: int, high: int, *where: str) -> int:
    """`text` as an integer in [low, high]; `where` are the folder, the file and the entry."""
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        place = f"{os.path.join(*where[:2])}, {where[2]}"
        raise BurnError(f"{place}: expected an integer from {low} to {high}, found {text!r}")
    return number


def _read_cub(root: str, split: str) -> Found:
    """images.txt (`id path`), image_class_labels.txt (`id class`, from 1), train_test_split.txt (`id flag`, 1 is
    training) and images/."""
    columns = {}
    for file, low, high in (("image_class_labels.txt", 1, CUB.classes), ("train_test_split.txt", 0, 1)):
        columns[file] = {image: _number(text, low, high, root, file, f"image {image}") for image, text in
                         _rows(root, file, 2)}
    names: dict[int, str] = {}
    paths, targets = [], []
    for image, path in _rows(root, "images.txt", 2):
        for file, column in columns.items():
            if image not in column:
                raise BurnError(f"{os.path.join(root, file)}: no line for image {image} of images.txt ({path})")
        target, training = (column[image] for column in columns.values())
        names.setdefault(target, path.split("/")[0])
        if training == (split == "train"):
            paths.append(f"images/{path}")
            targets.append(target - 1)
    return Found(root, paths, [names.get(target, str(target)) for target in range(1, max(names) + 1)], targets)


def _read_birdsnap(root: str, split: str) -> Found:
    """species.txt and images.txt (tab-separated, with a header; the columns `id common` and `path species_id` are
    used), test_images.txt (a header, then the paths of the test images) and images/, or download/images/ as
    get_birdsnap.py writes it. Many images are gone from the web: those that are on disk are used, and counted."""
    def columns(file: str, *wanted: str) -> list[tuple[str, ...]]:
        header, *rows = _rows(root, file, separator="\t")
        for name in wanted:
            if name not in header:
                raise BurnError(f"{os.path.join(root, file)}: no column {name} in its header")
        return [tuple(row[header.index(name)] for name in wanted) for row in rows]

    species = columns("species.txt", "id", "common")
    place = {number: index for index, (number, _) in enumerate(species)}
    in_test = {path for path, in _rows(root, "test_images.txt", separator="\t")[1:]}
    listed = [row for row in columns("images.txt", "path", "species_id") if (row[0] in in_test) == (split == "test")]
    folders = [folder for folder in ("images", "download/images") if os.path.isdir(os.path.join(root, folder))]
    if not folders:
        raise BurnError(f"no folder images in {root}")
    for path, number in listed:
        if number not in place:
            raise BurnError(f"{os.path.join(root, 'images.txt')}: {path} has species {number}, not in species.txt")
    there = [row for row in listed if os.path.isfile(os.path.join(root, folders[0], row[0]))]
    note = f" ({len(there):,} of {len(listed):,} listed images are on disk)"
    paths, targets = [f"{folders[0]}/{path}" for path, _ in there], [place[number] for _, number in there]
    return Found(root, paths, [name for _, name in species], targets, note=note)


def _read_places205(root: str, split: str) -> Found:
    """trainvalsplit_places205/{train,val}_places205.csv (lines of a path and a class, from 0) and images256/, or
    data/vision/torralba/deeplearning/images256/ as the archive unpacks."""
    file = f"trainvalsplit_places205/{split}_places205.csv"
    rows = _rows(root, file, 2)
    targets = [_number(text, 0, PLACES205.classes - 1, root, file, path) for path, text in rows]
    names = {}
    for (path, _), target in zip(rows, targets, strict=True):
        names.setdefault(target, os.path.dirname(path).partition("/")[2] or str(target))  # a/abbey/NAME.jpg
    folder = next((folder for folder in _PLACES_FOLDERS if os.path.isdir(os.path.join(root, folder))), None)
    if folder is None:
        raise BurnError(f"no folder {' or '.join(_PLACES_FOLDERS)} in {root}")
    class_names = [names.get(target, str(target)) for target in range(PLACES205.classes)]
    return Found(os.path.join(root, folder), [path for path, _ in rows], class_names, targets)


def _read_voc07(root: str, split: str) -> Found:
    """ImageSets/Main/CLASS_SPLIT.txt (lines of an image's name and 1, 0 or -1) and JPEGImages/.

    The matrix of labels is int8 [N, 20]: 1 where the class is there, -1 where it is not, 0 where all there is of it is
    marked "difficult".
    """
    names: list[str] = []
    columns = []
    for kind in VOC_CLASSES:
        file = f"ImageSets/Main/{kind}_{split}.txt"
        rows = _rows(root, file, 2)
        if names and [name for name, _ in rows] != names:
            raise BurnError(f"{os.path.join(root, file)}: lists other images than {VOC_CLASSES[0]}_{split}.txt")
        names = [name for name, _ in rows]
        columns.append([_number(text, -1, 1, root, file, name) for name, text in rows])
    paths = [f"JPEGImages/{name}.jpg" for name in names]
    return Found(root, paths, list(VOC_CLASSES), label_matrix=np.array(columns, dtype=np.int8).T.copy())


# Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, CNS-TR-2011-001
CUB = Published(
    "cub", {"train": 5994, "test": 5794}, 200, ("CUB_200_2011",), "images.txt", _read_cub,
    "https://www.vision.caltech.edu/datasets/cub_200_2011/ (CUB_200_2011.tgz)",
)
# Berg et al., Birdsnap, CVPR 2014; version 1.1
BIRDSNAP = Published(
    "birdsnap", {"train": 49829 - 2443, "test": 2443}, 500, ("birdsnap",), "images.txt", _read_birdsnap,
    "https://thomasberg.org/datasets/birdsnap/1.1/birdsnap.tgz (its get_birdsnap.py fetches the images)",
)
# Zhou et al., Learning Deep Features for Scene Recognition using Places Database, NeurIPS 2014
PLACES205 = Published(
    "places205", {"train": 2448873, "val": 20500}, 205, ("places205", "Places205"), "trainvalsplit_places205",
    _read_places205, "http://places.csail.mit.edu/downloadData.html (images256 and trainvalsplit_places205)",
)
# Everingham et al., The PASCAL Visual Object Classes Challenge 2007
VOC07 = Published(
    "voc07", {"train": 2501, "val": 2510, "trainval": 5011, "test": 4952}, 20, ("VOC2007", "VOCdevkit/VOC2007"),
    "ImageSets/Main", _read_voc07,
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/ (VOCtrainval_06-Nov-2007.tar; test: VOCtest_06-Nov-2007.tar)",
)
PUBLISHED = {known.name: known for known in (CUB, BIRDSNAP, PLACES205, VOC07)}
