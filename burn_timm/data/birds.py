"""`cub` and `birdsnap`: CUB-200-2011 and Birdsnap from the files that their authors published."""

import os

from burn_timm.data.listed import (
    ListedImages,
    Published,
    lines_of,
    locate,
    make_source,
    pairs_of,
    require_images,
    whole_number,
)
from burn_timm.data.sources import ImageSource
from burn_timm.errors import BurnError

CUB = Published(
    "cub", {"train": 5994, "test": 5794}, 200, ("CUB_200_2011",),
    "https://www.vision.caltech.edu/datasets/cub_200_2011/ (CUB_200_2011.tgz)",
)
BIRDSNAP = Published(
    "birdsnap", {"train": 49829 - 2443, "test": 2443}, 500, ("birdsnap",),
    "https://thomasberg.org/datasets/birdsnap/1.1/birdsnap.tgz (its get_birdsnap.py fetches the images)",
)


def open_cub(data_dir: str | None, split: str) -> ImageSource:
    """CUB-200-2011 (Wah et al., Caltech CNS-TR-2011-001): split 'train' (5,994) or 'test' (5,794), 200 classes.

    `data_dir`, or CUB_200_2011 in it, holds images.txt (`id path`), image_class_labels.txt (`id class`, from 1),
    train_test_split.txt (`id flag`, 1 is training) and images/. Raises BurnError naming the file that is missing or
    malformed, and if a listed image is missing.
    """
    root = locate(CUB, data_dir, split, "images.txt")
    paths = [line.split(maxsplit=1) for line in lines_of(CUB, root, "images.txt")]
    if any(len(words) != 2 for words in paths):
        raise BurnError(f"{os.path.join(root, 'images.txt')}: expected lines of an image's number and its path")
    classes = dict(pairs_of(CUB, root, "image_class_labels.txt", "a class"))
    flags = dict(pairs_of(CUB, root, "train_test_split.txt", "1 (training) or 0 (test)"))
    names: dict[int, str] = {}
    chosen, targets = [], []
    for number, path in paths:
        for file, table in (("image_class_labels.txt", classes), ("train_test_split.txt", flags)):
            if number not in table:
                raise BurnError(f"{os.path.join(root, file)}: no line for image {number} of images.txt ({path})")
        target = whole_number(
            classes[number], 1, CUB.classes, f"{os.path.join(root, 'image_class_labels.txt')}, image {number}"
        )
        training = whole_number(flags[number], 0, 1, f"{os.path.join(root, 'train_test_split.txt')}, image {number}")
        names.setdefault(target, path.split("/")[0])
        if training == (split == "train"):
            chosen.append(f"images/{path}")
            targets.append(target - 1)
    class_names = [names.get(target, str(target)) for target in range(1, max(names) + 1)]
    images = ListedImages(root, chosen, class_names, targets)
    require_images(CUB, root, images)
    return make_source(CUB, data_dir, split, images)


def open_birdsnap(data_dir: str | None, split: str) -> ImageSource:
    """Birdsnap 1.1 (Berg et al., CVPR 2014): split 'train' (47,386) or 'test' (2,443), 500 classes.

    `data_dir`, or birdsnap in it, holds species.txt and images.txt (tab-separated, with a header; the columns `id
    common` and `path species_id` are used), test_images.txt (a header, then the paths of the test images) and images/,
    or download/images/ as get_birdsnap.py writes it. Many images are gone from the web: those that are on disk are
    used, and the description says how many of the listed ones these are. Raises BurnError naming the file that is
    missing or malformed, and if there is no image at all.
    """
    root = locate(BIRDSNAP, data_dir, split, "images.txt")
    species = _columns(root, "species.txt", "id", "common")
    position = {number: index for index, (number, _) in enumerate(species)}
    listed = _columns(root, "images.txt", "path", "species_id")
    in_test = set(lines_of(BIRDSNAP, root, "test_images.txt")[1:])
    listed = [(path, number) for path, number in listed if (path in in_test) == (split == "test")]
    folders = [folder for folder in ("images", "download/images") if os.path.isdir(os.path.join(root, folder))]
    if not folders:
        raise BurnError(f"--dataset birdsnap: no folder images in {root}; get the set from {BIRDSNAP.origin}")
    paths, targets = [], []
    for path, number in listed:
        if number not in position:
            raise BurnError(f"{os.path.join(root, 'images.txt')}: {path} has species {number}, not in species.txt")
        if os.path.isfile(os.path.join(root, folders[0], path)):
            paths.append(f"{folders[0]}/{path}")
            targets.append(position[number])
    note = f" ({len(paths):,} of {len(listed):,} listed images are on disk)"
    images = ListedImages(root, paths, [name for _, name in species], targets)
    return make_source(BIRDSNAP, data_dir, split, images, note)


def _columns(root: str, file: str, *wanted: str) -> list[tuple[str, ...]]:
    """The named columns of a tab-separated file with a header. Raises BurnError."""
    header, *rows = [line.split("\t") for line in lines_of(BIRDSNAP, root, file)]
    for name in wanted:
        if name not in header:
            raise BurnError(f"{os.path.join(root, file)}: no column {name} in its header; expected Birdsnap 1.1's file")
    at = [header.index(name) for name in wanted]
    for number, row in enumerate(rows, start=2):
        if len(row) <= max(at):
            raise BurnError(f"{os.path.join(root, file)}, entry {number}: {len(row)} columns, {len(header)} expected")
    return [tuple(row[column] for column in at) for row in rows]
