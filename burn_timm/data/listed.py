"""Images that published lists name: what the readers of CUB, Birdsnap, Places205 and VOC2007 share."""

import logging
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from burn_timm.data.sources import ImageSource, public_path
from burn_timm.errors import BurnError, NoSplitError

_logger = logging.getLogger(__name__)


class Published(NamedTuple):
    """A set as its authors published it.

    scheme: its name in `--dataset`. images: how many each split has. classes: how many there are.
    folders: where in the archive the files lie. origin: where to get it.
    """

    scheme: str
    images: dict[str, int]
    classes: int
    folders: tuple[str, ...]
    origin: str


class ListedImages:
    """Image files below `root`, in the order of a list, with a class each or a row of a label matrix each.

    Attributes: `class_names` (list of str), `num_classes`, `label_matrix` (int8 [N, C], or None).
    """

    def __init__(
        self, root: str, paths: list[str], class_names: list[str], targets: list[int] | None = None,
        label_matrix: np.ndarray | None = None,
    ) -> None:
        self._root = root
        self._paths = np.array([os.fsencode(path) for path in paths])  # 2.4 million str take five times the memory
        self._targets = None if targets is None else np.array(targets, dtype=np.int64)
        self.label_matrix = label_matrix
        self.class_names = class_names
        self.num_classes = len(class_names)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> tuple[Image.Image, int]:
        with Image.open(os.path.join(self._root, self.name(index))) as image:
            rgb = image.convert("RGB")
        return rgb, index if self._targets is None else int(self._targets[index])

    def labels(self) -> np.ndarray | None:
        return self._targets

    def name(self, index: int) -> str:
        return os.fsdecode(self._paths[index])

    def identities(self) -> Iterator[str]:
        root = os.path.realpath(self._root)
        return (f"{root}/{os.fsdecode(path)}" for path in self._paths)


def locate(published: Published, data_dir: str | None, split: str, marker: str) -> str:
    """The folder that holds `marker`: `data_dir` itself or one of the archive's folders in it.

    Where nothing holds it, the folder in which it should be. Raises BurnError for a wrong split and a missing folder.
    """
    if split not in published.images:
        available = ", ".join(published.images)
        raise NoSplitError(f"--dataset {published.scheme}: no split {split!r}; available: {available}")
    if not data_dir:
        raise BurnError(f"--dataset {published.scheme}: name its folder by --data-dir; get it from {published.origin}")
    if not os.path.isdir(data_dir):
        raise BurnError(f"--data-dir {data_dir}: no such folder; get {published.scheme} from {published.origin}")
    candidates = [data_dir, *(os.path.join(data_dir, folder) for folder in published.folders)]
    holding = [folder for folder in candidates if os.path.exists(os.path.join(folder, marker))]
    inner = [folder for folder in candidates[1:] if os.path.isdir(folder)]
    return (holding or inner or candidates)[0]


def lines_of(published: Published, root: str, file: str) -> list[str]:
    """The lines of root/file that are not blank. Raises BurnError if there is no such file, or nothing in it."""
    path = os.path.join(root, file)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:  # as os.fsencode undoes it
            lines = [line.rstrip("\r\n") for line in stream if not line.isspace()]
    except OSError as error:
        reason = "no file" if isinstance(error, FileNotFoundError) else f"{error.strerror}:"
        raise BurnError(
            f"--dataset {published.scheme}: {reason} {file} in {root}; get the set from {published.origin}"
        ) from error
    if not lines:
        raise BurnError(f"--dataset {published.scheme}: {path} is empty; get the set from {published.origin}")
    return lines


def pairs_of(published: Published, root: str, file: str, last: str) -> Iterator[tuple[str, str]]:
    """(the rest, the last word) of each line of root/file; `last` says what that is. Raises BurnError, as `lines_of`,
    and where a line has one word."""
    for number, line in enumerate(lines_of(published, root, file), start=1):
        words = line.rsplit(maxsplit=1)
        if len(words) != 2:
            raise BurnError(f"{os.path.join(root, file)}, entry {number}: expected a name and {last}, found {line!r}")
        yield words[0], words[1]


def whole_number(text: str, low: int, high: int, where: str) -> int:
    """`text` as an integer in [low, high]. Raises BurnError, which `where` opens."""
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        raise BurnError(f"{where}: expected an integer from {low} to {high}, found {text!r}")
    return number


def require_images(published: Published, root: str, images: ListedImages, indices: Iterable[int] | None = None) -> None:
    """Raise BurnError, naming the first, if images (those at `indices`, or all) are not below `root`."""
    looked_at = range(len(images)) if indices is None else list(indices)
    missing = [i for i in looked_at if not os.path.isfile(os.path.join(root, images.name(i)))]
    if missing:
        of = f"{len(images):,} listed" if indices is None else f"{len(looked_at):,} looked for"
        raise BurnError(
            f"--dataset {published.scheme}: {len(missing):,} of {of} images are missing from {root}, the first is "
            f"{images.name(missing[0])}; get the set from {published.origin}"
        )


def make_source(published: Published, data_dir: str, split: str, images: ListedImages, note: str = "") -> ImageSource:
    """The source; warns once where its counts are not the published ones. Raises BurnError if it has no image."""
    title = f"{published.scheme} {public_path(data_dir)} [{split}]{note}"
    if not len(images):
        raise BurnError(f"--dataset {title}: no image; get the set from {published.origin}")
    if len(images) != published.images[split] or images.num_classes != published.classes:
        _logger.warning(
            "%s: %s images of %d classes; the published split has %s of %d",
            title, f"{len(images):,}", images.num_classes, f"{published.images[split]:,}", published.classes,
        )
    return ImageSource(images, title)
