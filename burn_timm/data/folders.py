"""Folders and tars of images, a class for each folder of the first level.

What is listed: files whose ending is that of a kind Pillow reads (or is named), in natural order of their paths, as
timm orders them. Whatever has a part that starts with a dot is left out (editors and file managers leave copies there),
and so is `__MACOSX`. Links to folders are followed, but a folder is listed once.
"""

import io
import logging
import os
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from burn_timm.data.decode import decode, image_endings
from burn_timm.data.sources import Files, ImageSource, Store, shown_path
from burn_timm.errors import BurnError, NoSplitError, one_line

_logger = logging.getLogger(__name__)
SPLIT_SYNONYMS = (
    ("train", "training"),
    ("val", "valid", "validation", "eval", "evaluation"),
    ("test",),
)


def open_folder(root: str, split: str, input_key: str | None) -> ImageSource:
    """Images below the folder `root`, or its folder of the split, or in the file `root`, a tar.

    The classes are the folders of the first level; images deeper in one belong to it. (Of a tar: below the folder that
    all images share.) Fewer than two such folders, or images outside them: unlabelled. `input_key` lists endings
    ('.png;.bmp') in place of Pillow's. Raises BurnError where there is no image, or no such split.
    """
    if not os.path.exists(root):
        raise BurnError(f"--data-dir {root}: no such folder")
    endings = tuple(f".{word.strip().lstrip('.').lower()}" for word in (input_key or "").split(";") if word.strip())
    title = f"folder {shown_path(root)} [{split}]"
    left_out: Counter[str] = Counter()
    try:
        if os.path.isfile(root):
            if not root.endswith(".tar"):
                raise BurnError(f"--data-dir {root}: a file; expected a folder or a .tar of images")
            members = sorted(_listed_tar(root, endings or image_endings(), left_out), key=lambda one: one[0])
            store = TarImages(root, members)
            names = [posixpath.normpath(name) for _, name, _, _ in members]
            shared = posixpath.commonpath([posixpath.dirname(name) for name in names]) if names else ""
            names = [posixpath.relpath(name, shared) for name in names] if shared else names
        else:
            folder = split_folder(root, split)
            names = sorted(_listed(folder, endings or image_endings(), left_out), key=_natural)
            store = Files(folder, names)
    except (OSError, tarfile.TarError) as error:
        raise BurnError(f"--data-dir {root}: {one_line(error)}") from error
    if left_out and not endings:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in left_out.most_common(5))
        _logger.warning(
            "%s: left out %s entries that are not images by their names (%s); --input-key '.png;.abc' takes what has "
            "the endings it names", title, f"{left_out.total():,}", kinds,
        )
    if not names:
        looked_for = ", ".join(endings or image_endings())
        raise BurnError(f"--data-dir {root}: Found 0 images; looked for {looked_for} (--input-key names others)")
    folders = [name.partition("/")[0] if "/" in name else "" for name in names]
    classes = sorted(set(folders), key=_natural)
    if len(classes) < 2 or "" in classes:  # one folder for all says nothing about classes
        return ImageSource(store, title)
    place = {name: number for number, name in enumerate(classes)}
    return ImageSource(store, title, [place[folder] for folder in folders], classes)


def split_folder(root: str, split: str) -> str:
    """The folder of the split in `root`, under any of its names; `root` itself where it has no folders of splits.

    Raises NoSplitError where there are other splits, and for a split other than training where there is none.
    """
    group = next((group for group in SPLIT_SYNONYMS if split in group), (split,))
    for name in (split, *group):
        if os.path.isdir(os.path.join(root, name)):
            return os.path.join(root, name)
    present = [name for names in SPLIT_SYNONYMS for name in names if os.path.isdir(os.path.join(root, name))]
    if present:
        raise NoSplitError(f"--data-dir {root}: no split {split!r}; available: {', '.join(present)}")
    # Without split folders the images are training images, unless the path itself names the split.
    if group[0] != "train" and os.path.basename(os.path.abspath(root)) not in group:
        raise NoSplitError(f"--data-dir {root}: no split {split!r} (it has no split folders: only train is available)")
    return root


class TarImages(Store):
    """Images at known places of an uncompressed tar: (sorting key, name, offset, size) each."""

    def __init__(self, path: str, members: list[tuple]) -> None:
        self.path = path
        self._names = np.array([os.fsencode(name) for _, name, _, _ in members])
        self._places = np.array([(offset, size) for _, _, offset, size in members], np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._names)

    def image(self, index: int) -> Image.Image:
        offset, size = self._places[index].tolist()
        with open(self.path, "rb") as file:  # opened anew: forked workers must not share a position
            file.seek(offset)
            return decode(io.BytesIO(file.read(size)))

    def name(self, index: int) -> str:
        return os.fsdecode(self._names[index])

    def identities(self) -> Iterable[str]:
        return (f"{os.path.realpath(self.path)} {index}" for index in range(len(self)))  # a tar has no splits

    def listing(self) -> Iterable[bytes]:
        return (b"%s %d %d" % (name, *place) for name, place in zip(self._names, self._places.tolist(), strict=True))


def _listed(root: str, endings: tuple[str, ...], left_out: Counter) -> Iterator[str]:
    """Paths of the images below `root`, relative to it, with `/`; each folder once, however many links lead to it."""
    seen = set()
    folders, links = [""], []
    while folders or links:
        below = folders.pop() if folders else links.pop(0)  # what is reached without links first
        real = os.path.realpath(os.path.join(root, below))
        if real in seen:
            left_out["links to folders listed before"] += 1
            continue
        seen.add(real)
        with os.scandir(os.path.join(root, below)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = f"{below}/{entry.name}" if below else entry.name
                if _hidden(entry.name):
                    continue
                if entry.is_dir():
                    (links if entry.is_symlink() else folders).append(path)
                elif not entry.name.lower().endswith(endings):
                    left_out[_ending(entry.name)] += 1
                elif entry.is_file() or entry.is_symlink():  # a link to nothing is an image that cannot be read
                    yield path


def _listed_tar(path: str, endings: tuple[str, ...], left_out: Counter) -> Iterator[tuple]:
    """(sorting key, name, offset, size) of the images in a tar; a tar inside it is a folder of its name."""
    def members(tar: tarfile.TarFile, above: str, start: int) -> Iterator[tuple]:
        for member in tar:
            if not member.isfile() or any(map(_hidden, posixpath.normpath(member.name).split("/"))):
                continue
            name, offset = f"{above}{member.name}", start + member.offset_data
            if member.name.lower().endswith(".tar"):
                with tarfile.open(fileobj=tar.extractfile(member), mode="r:") as inner:
                    yield from members(inner, f"{name[:-4]}/", offset)
            elif member.name.lower().endswith(endings):
                yield (_natural(member.name), name), name, offset, member.size
            else:
                left_out[_ending(member.name)] += 1

    with tarfile.open(path, "r:") as tar:
        yield from members(tar, "", 0)


def _hidden(name: str) -> bool:
    return name.startswith(".") and name != "." or name == "__MACOSX"


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without an ending"


def _natural(name: str) -> tuple:
    """Sorts 2 before 10, as timm does; names that differ only in case have an order of their own."""
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name
