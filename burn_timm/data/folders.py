"""Folders of images, a class for each folder of the first level.

What is listed: files whose ending is that of a kind Pillow reads (or is named), in natural order of their paths, as
timm orders them. Whatever has a part that starts with a dot is left out (editors and file managers leave copies there),
and so is `__MACOSX`. Links to folders are followed, but a folder is listed once.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator

from burn_timm.data.decode import image_endings
from burn_timm.data.sources import Files, ImageSource, shown_path
from burn_timm.errors import BurnError, NoSplitError, one_line

_logger = logging.getLogger(__name__)
SPLIT_SYNONYMS = (
    ("train", "training"),
    ("val", "valid", "validation", "eval", "evaluation"),
    ("test",),
)


def open_folder(root: str, split: str, input_key: str | None) -> ImageSource:
    """Images below the folder `root`, or its folder of the split.

    The classes are the folders of the first level; images deeper in one belong to it. Fewer than two such folders, or
    images outside them: unlabelled. `input_key` lists endings ('.png;.bmp') in place of Pillow's. Raises BurnError
    where there is no image, or no such split.
    """
    if not os.path.isdir(root):
        raise BurnError(f"--data-dir {root}: no such folder{'; unpack archives' if os.path.exists(root) else ''}")
    named = tuple(f".{word.strip().lstrip('.').lower()}" for word in (input_key or "").split(";") if word.strip())
    endings = named or image_endings()
    title = f"folder {shown_path(root)} [{split}]"
    left_out: Counter[str] = Counter()
    try:
        folder = split_folder(root, split, endings)
        paths = sorted(_listed(folder, endings, left_out), key=_natural)
    except OSError as error:
        raise BurnError(f"--data-dir {root}: {one_line(error)}") from error
    if left_out and not named:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in left_out.most_common(5))
        _logger.warning(
            "%s: left out %s entries that are not images by their names (%s); --input-key '.png;.abc' takes what has "
            "the endings it names", title, f"{left_out.total():,}", kinds,
        )
    if not paths:
        told = f"Found 0 images; looked for {', '.join(endings)} (--input-key names others)"
        raise BurnError(f"--data-dir {root}: {told}")
    folders = [path.partition("/")[0] if "/" in path else "" for path in paths]
    classes = sorted(set(folders), key=_natural)
    empty = sorted(
        name for name in next(os.walk(folder))[1]
        if name not in classes and not _left_out(name) and not os.path.islink(os.path.join(folder, name))
    )
    if empty and "" not in classes:
        _logger.warning("%s: no class of folders without an image (%s): %s", title, len(empty), ", ".join(empty[:5]))
    if len(classes) < 2 or "" in classes:  # one folder for all says nothing about classes
        return ImageSource(Files(folder, paths), title)
    place = {name: number for number, name in enumerate(classes)}
    return ImageSource(Files(folder, paths), title, [place[name] for name in folders], classes)


def split_folder(root: str, split: str, endings: tuple[str, ...]) -> str:
    """The folder of the split in `root`, under any of its names, in small or capital letters; `root` itself where it
    has no folders of splits.

    Raises NoSplitError where there are other splits, and for a split other than training where there is none; BurnError
    where two names differ in capitals alone, and where the only split may be a class, with other folders of images
    (with these `endings`) beside it.
    """
    known = sum(SPLIT_SYNONYMS, ())
    named = split.lower() in known
    if not named and os.path.isdir(os.path.join(root, split)):
        return os.path.join(root, split)
    group = next((group for group in SPLIT_SYNONYMS if split.lower() in group), (split,))
    with os.scandir(root) as entries:
        folders = sorted((entry.name for entry in entries if entry.is_dir()), key=_natural)
    present = _split_folders(root, folders)
    splits = [group for group in SPLIT_SYNONYMS if set(group) & set(present)]
    if len(splits) == 1 and named:  # two are no classes
        _require_no_classes_beside(next(iter(present.values())), root, folders, endings)
    found = next((present[name] for name in (split.lower(), *group) if name in present), None)
    if found:
        return os.path.join(root, found)
    if present:
        raise NoSplitError(f"--data-dir {root}: no split {split!r}; available: {', '.join(present.values())}")
    # Without split folders the images are training images, unless the path itself names the split.
    if group[0] != "train" and os.path.basename(os.path.abspath(root)).lower() not in group:
        why = "without folders such as train and val, all of its images are train"
        raise NoSplitError(f"--data-dir {root}: no split {split!r} ({why})")
    return root


def _split_folders(root: str, folders: list[str]) -> dict[str, str]:
    """Those of `folders` that are called as splits are: the name in small letters -> the folder's own."""
    found = {}
    for split in sum(SPLIT_SYNONYMS, ()):
        alike = [name for name in folders if name.lower() == split]
        if len(alike) > 1:
            raise BurnError(f"--data-dir {root}: {' and '.join(alike)} are names of one split: join or rename them")
        if alike:
            found[split] = alike[0]
    return found


def _require_no_classes_beside(split: str, root: str, folders: list[str], endings: tuple[str, ...]) -> None:
    others = [name for name in folders if not _left_out(name) and name.lower() not in sum(SPLIT_SYNONYMS, ())
              and any(_listed(os.path.join(root, name), endings, Counter()))]
    if others:
        some = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise BurnError(
            f"--data-dir {root}: {split} is taken for a split, but beside it there are images in {some}: rename "
            f"{split} if it is a class, else move what is no split elsewhere"
        )


def _left_out(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


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
                if _left_out(entry.name):
                    continue
                if entry.is_dir():
                    (links if entry.is_symlink() else folders).append(path)
                elif not entry.name.lower().endswith(endings):
                    left_out[os.path.splitext(entry.name)[1].lower() or "without an ending"] += 1
                elif entry.is_file() or entry.is_symlink():  # a link to nothing is an image that cannot be read
                    yield path


def _natural(name: str) -> tuple:
    """Sorts 2 before 10, as timm does; names that differ only in case have an order of their own."""
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name
