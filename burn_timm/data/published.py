"""`cub`, `birdsnap` and `places205` from the files that their authors published, and what `voc.py` shares with them."""

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from burn_timm.data.sources import Files, ImageSource, shown_path
from burn_timm.errors import BurnError, NoSplitError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """A set as its authors published it. All methods raise BurnError, which names the file and where to get the set."""

    scheme: str  # its name in --dataset
    images: dict[str, int]  # how many each split has
    classes: int
    folders: tuple[str, ...]  # where in the archive the files lie
    origin: str  # where to get it

    def locate(self, data_dir: str | None, split: str, marker: str) -> str:
        """The folder that holds `marker`: `data_dir` itself or one of the archive's folders in it.

        Where nothing holds it, the folder in which it should be.
        """
        if split not in self.images:
            raise NoSplitError(f"--dataset {self.scheme}: no split {split!r}; available: {', '.join(self.images)}")
        if not data_dir:
            raise BurnError(f"--dataset {self.scheme}: name its folder by --data-dir; get it from {self.origin}")
        if not os.path.isdir(data_dir):
            raise BurnError(f"--data-dir {data_dir}: no such folder; get {self.scheme} from {self.origin}")
        candidates = [data_dir, *(os.path.join(data_dir, folder) for folder in self.folders)]
        holding = [folder for folder in candidates if os.path.exists(os.path.join(folder, marker))]
        inner = [folder for folder in candidates[1:] if os.path.isdir(folder)]
        return (holding or inner or candidates)[0]

    def error(self, message: str) -> BurnError:
        return BurnError(f"--dataset {self.scheme}: {message}; get the set from {self.origin}")

    def lines(self, root: str, file: str) -> list[str]:
        """The lines of root/file that are not blank; at least one."""
        path = os.path.join(root, file)
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as stream:  # as os.fsencode undoes it
                lines = [line.rstrip("\r\n") for line in stream if not line.isspace()]
        except OSError as error:
            reason = "no file" if isinstance(error, FileNotFoundError) else f"{error.strerror}:"
            raise self.error(f"{reason} {file} in {root}") from error
        if not lines:
            raise self.error(f"{path} is empty")
        return lines

    def pairs(self, root: str, file: str, last: str) -> Iterator[tuple[str, str]]:
        """(the rest, the last word) of each line of root/file; `last` says what that is."""
        for number, line in enumerate(self.lines(root, file), start=1):
            words = line.rsplit(maxsplit=1)
            if len(words) != 2:
                raise self.error(
                    f"{os.path.join(root, file)}, entry {number}: expected a name and {last}, found {line!r}"
                )
            yield words[0], words[1]

    def require(self, files: Files, indices: Iterable[int] | None = None) -> None:
        """Refuse a set of which images (those at `indices`, or all) are missing."""
        looked_at = range(len(files)) if indices is None else list(indices)
        missing = [i for i in looked_at if not os.path.isfile(os.path.join(files.root, files.name(i)))]
        if missing:
            of = f"{len(files):,} listed" if indices is None else f"{len(looked_at):,} looked for"
            raise self.error(
                f"{len(missing):,} of {of} images are missing from {files.root}, the first is {files.name(missing[0])}"
            )

    def source(self, data_dir: str, split: str, files: Files, class_names: list[str], note: str = "", **labels):
        """The `ImageSource`; warns once where its counts are not the published ones."""
        title = f"{self.scheme} {shown_path(data_dir)} [{split}]{note}"
        if not len(files):
            raise self.error(f"{title}: no image")
        if len(files) != self.images[split] or len(class_names) != self.classes:
            _logger.warning(
                "%s: %s images of %d classes; the published split has %s of %d",
                title, f"{len(files):,}", len(class_names), f"{self.images[split]:,}", self.classes,
            )
        return ImageSource(files, title, class_names=class_names, **labels)


def whole_number(text: str, low: int, high: int, where: str) -> int:
    """`text` as an integer in [low, high]. Raises BurnError, which `where` opens."""
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        raise BurnError(f"{where}: expected an integer from {low} to {high}, found {text!r}")
    return number


CUB = Published(
    "cub", {"train": 5994, "test": 5794}, 200, ("CUB_200_2011",),
    "https://www.vision.caltech.edu/datasets/cub_200_2011/ (CUB_200_2011.tgz)",
)
BIRDSNAP = Published(
    "birdsnap", {"train": 49829 - 2443, "test": 2443}, 500, ("birdsnap",),
    "https://thomasberg.org/datasets/birdsnap/1.1/birdsnap.tgz (its get_birdsnap.py fetches the images)",
)
PLACES205 = Published(
    "places205", {"train": 2448873, "val": 20500}, 205, ("places205", "Places205"),
    "http://places.csail.mit.edu/downloadData.html (images256 and trainvalsplit_places205)",
)
_PLACES_FOLDERS = ("data/vision/torralba/deeplearning/images256", "images256")
_PLACES_LOOKED_FOR = 64


def open_cub(data_dir: str | None, split: str) -> ImageSource:
    """CUB-200-2011 (Wah et al., Caltech CNS-TR-2011-001): split 'train' (5,994) or 'test' (5,794), 200 classes.

    `data_dir`, or CUB_200_2011 in it, holds images.txt (`id path`), image_class_labels.txt (`id class`, from 1),
    train_test_split.txt (`id flag`, 1 is training) and images/. Raises BurnError naming the file that is missing or
    malformed, and if a listed image is missing.
    """
    root = CUB.locate(data_dir, split, "images.txt")
    paths = [line.split(maxsplit=1) for line in CUB.lines(root, "images.txt")]
    if any(len(words) != 2 for words in paths):
        raise BurnError(f"{os.path.join(root, 'images.txt')}: expected lines of an image's number and its path")
    classes = dict(CUB.pairs(root, "image_class_labels.txt", "a class"))
    flags = dict(CUB.pairs(root, "train_test_split.txt", "1 (training) or 0 (test)"))
    names: dict[int, str] = {}
    chosen, targets = [], []
    for number, path in paths:
        for file, table in (("image_class_labels.txt", classes), ("train_test_split.txt", flags)):
            if number not in table:
                raise BurnError(f"{os.path.join(root, file)}: no line for image {number} of images.txt ({path})")
        where = os.path.join(root, "image_class_labels.txt")
        target = whole_number(classes[number], 1, CUB.classes, f"{where}, image {number}")
        where = os.path.join(root, "train_test_split.txt")
        training = whole_number(flags[number], 0, 1, f"{where}, image {number}")
        names.setdefault(target, path.split("/")[0])
        if training == (split == "train"):
            chosen.append(f"images/{path}")
            targets.append(target - 1)
    files = Files(root, chosen)
    CUB.require(files)
    class_names = [names.get(target, str(target)) for target in range(1, max(names) + 1)]
    return CUB.source(data_dir, split, files, class_names, targets=targets)


def open_birdsnap(data_dir: str | None, split: str) -> ImageSource:
    """Birdsnap 1.1 (Berg et al., CVPR 2014): split 'train' (47,386) or 'test' (2,443), 500 classes.

    `data_dir`, or birdsnap in it, holds species.txt and images.txt (tab-separated, with a header; the columns `id
    common` and `path species_id` are used), test_images.txt (a header, then the paths of the test images) and images/,
    or download/images/ as get_birdsnap.py writes it. Many images are gone from the web: those that are on disk are
    used, and the description says how many of the listed ones these are. Raises BurnError naming the file that is
    missing or malformed, and if there is no image at all.
    """
    root = BIRDSNAP.locate(data_dir, split, "images.txt")
    species = _columns(root, "species.txt", "id", "common")
    position = {number: index for index, (number, _) in enumerate(species)}
    listed = _columns(root, "images.txt", "path", "species_id")
    in_test = set(BIRDSNAP.lines(root, "test_images.txt")[1:])
    listed = [(path, number) for path, number in listed if (path in in_test) == (split == "test")]
    folders = [folder for folder in ("images", "download/images") if os.path.isdir(os.path.join(root, folder))]
    if not folders:
        raise BIRDSNAP.error(f"no folder images in {root}")
    paths, targets = [], []
    for path, number in listed:
        if number not in position:
            raise BurnError(f"{os.path.join(root, 'images.txt')}: {path} has species {number}, not in species.txt")
        if os.path.isfile(os.path.join(root, folders[0], path)):
            paths.append(f"{folders[0]}/{path}")
            targets.append(position[number])
    note = f" ({len(paths):,} of {len(listed):,} listed images are on disk)"
    class_names = [name for _, name in species]
    return BIRDSNAP.source(data_dir, split, Files(root, paths), class_names, note, targets=targets)


def _columns(root: str, file: str, *wanted: str) -> list[tuple[str, ...]]:
    """The named columns of a tab-separated file with a header. Raises BurnError."""
    header, *rows = [line.split("\t") for line in BIRDSNAP.lines(root, file)]
    for name in wanted:
        if name not in header:
            raise BurnError(f"{os.path.join(root, file)}: no column {name} in its header; expected Birdsnap 1.1's file")
    at = [header.index(name) for name in wanted]
    for number, row in enumerate(rows, start=2):
        if len(row) <= max(at):
            raise BurnError(f"{os.path.join(root, file)}, entry {number}: {len(row)} columns, {len(header)} expected")
    return [tuple(row[column] for column in at) for row in rows]


def open_places205(data_dir: str | None, split: str) -> ImageSource:
    """Places205 (Zhou et al., NeurIPS 2014): split 'train' (2,448,873) or 'val' (20,500), 205 classes.

    `data_dir` holds trainvalsplit_places205/{train,val}_places205.csv (lines of a path and a class, from 0) and
    images256/, or data/vision/torralba/deeplearning/images256/ as the archive unpacks. Only the first, the last and 62
    seeded images between are looked for here. Raises BurnError naming the file that is missing or malformed.
    """
    lists = "trainvalsplit_places205"
    root = PLACES205.locate(data_dir, split, lists)
    file = f"{lists}/{split}_places205.csv"
    names: dict[int, str] = {}
    paths, targets = [], []
    for path, text in PLACES205.pairs(root, file, "a class"):
        target = whole_number(text, 0, PLACES205.classes - 1, f"{os.path.join(root, file)}, {path}")
        if target not in names:
            names[target] = os.path.dirname(path).partition("/")[2] or str(target)  # a/abbey/NAME.jpg
        paths.append(path)
        targets.append(target)
    folder = next((folder for folder in _PLACES_FOLDERS if os.path.isdir(os.path.join(root, folder))), None)
    if folder is None:
        raise PLACES205.error(f"no folder {' or '.join(_PLACES_FOLDERS)} in {root}")
    class_names = [names.get(target, str(target)) for target in range(PLACES205.classes)]
    files = Files(os.path.join(root, folder), paths)
    between = np.random.default_rng(0).integers(len(files), size=_PLACES_LOOKED_FOR - 2).tolist()
    PLACES205.require(files, sorted({0, *between, len(files) - 1}))
    return PLACES205.source(data_dir, split, files, class_names, targets=targets)
