"""Image folders in disorder for campaign.py: each image must come with the class of its own folder, and its pixels."""

import hashlib
import io
import os
import posixpath
import random
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from burn_timm.data import align, eval_loader, open_dataset
from burn_timm.errors import BurnError

CLASSES = ("cat", "dog", "class_2", "class_10", "2", "02", "Zebra", "zebra", "été", "with space", "a.b", "-1", "test")
KINDS = (
    "rgb", "rgb", "grey", "grey16", "grey16 tiff", "rgba", "grey alpha", "palette", "rotated", "jpeg", "gif", "float",
)
VAL_FOLDERS = ("val", "valid", "validation", "eval")
UPRIGHT = {  # EXIF's orientation: from the stored picture to the one that a viewer shows
    2: lambda s: s[:, ::-1], 3: lambda s: s[::-1, ::-1], 4: lambda s: s[::-1], 5: lambda s: s.transpose(1, 0, 2),
    6: lambda s: np.rot90(s, -1), 7: lambda s: np.rot90(s.transpose(1, 0, 2), 2), 8: lambda s: np.rot90(s, 1),
}


@dataclass
class Truth:
    """What must come of one file: `pixels` None means that it cannot be read; `torn`: it may be unreadable."""

    pixels: np.ndarray | None
    tolerance: int = 0
    torn: bool = False


class Folders:
    """Makes a folder, opens it, and compares every image and label with what was put there."""

    def __init__(self, folder: Path):
        self.folder, self.count = folder, 0

    def run(self, rng: random.Random) -> tuple[str, str | None]:
        self.count += 1
        root = self.folder / f"set{self.count}"
        np_rng = np.random.default_rng(rng.randrange(2**32))
        try:
            train, val = make_set(root, rng, np_rng)
            opened = [check_split(root, "train", train), check_split(root, "validation", val)]
            return check_aligned(*opened, val), None
        finally:
            shutil.rmtree(root)


def make_set(root: Path, rng: random.Random, np_rng: np.random.Generator) -> tuple[dict, dict]:
    """Write a training and a validation folder; the truth of each, by path."""
    names = rng.sample(CLASSES, rng.randint(1, 5))
    others = [name for name in CLASSES if name not in names]
    of_val, change = list(names), rng.randrange(6)
    if change == 0:
        of_val.remove(rng.choice(of_val))
    elif change == 1:
        of_val[rng.randrange(len(of_val))] = rng.choice(others)
    elif change == 2:
        of_val += rng.sample(others, 1)
    truths = []
    for split, classes in (("train", names), (rng.choice(VAL_FOLDERS), of_val)):
        truth: dict[str, Truth] = {}
        folder = root / split
        folder.mkdir(parents=True)
        for number, name in enumerate(classes):
            many = 120 if number == 0 and rng.random() < 0.1 else rng.randint(1, 4)  # so many that one may be damaged
            for index in range(many):
                deep = rng.choice(("", "", "", "nested/", "nested/deep er/"))
                add_image(folder, f"{name}/{deep}{index}", truth, rng, np_rng, plain=many > 4 and index > 0)
        for _ in range(rng.randint(0, 6)):
            disturb(folder, classes, truth, rng, np_rng)
        truths.append(truth)
    return truths[0], truths[1]


def add_image(folder: Path, stem: str, truth: dict, rng, np_rng, plain: bool = False) -> None:
    data, ending, expected = picture(rng, np_rng, plain)
    damage = "" if plain else rng.choice(("",) * 20 + ("cut", "empty", "text"))
    if damage:
        cut = data[: rng.randrange(len(data))]
        data = {"cut": cut, "empty": b"", "text": b"<html>not found</html>"}[damage]
        expected = Truth(expected.pixels if damage == "cut" else None, expected.tolerance, torn=True)
    path = f"{stem}.{ending.upper() if rng.random() < 0.1 else ending}"
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(data)
    truth[path] = expected


def picture(rng, np_rng, plain: bool) -> tuple[bytes, str, Truth]:
    """The bytes of an image file, its ending, and the pixels that docs promise: `[H, W, 3]`."""
    height, width = rng.randint(3, 9), rng.randint(3, 9)
    rgb = np_rng.integers(0, 256, (height, width, 3), np.uint8)
    kind = "rgb" if plain else rng.choice(KINDS)
    alpha = np_rng.integers(0, 256, (height, width, 1), np.uint8)
    if kind == "grey":
        return saved(rgb[..., 0], "png"), "png", Truth(np.repeat(rgb[..., :1], 3, 2))
    if kind.startswith("grey16"):
        deep = np_rng.integers(0, 65536, (height, width), np.uint16)
        ending = "tif" if kind.endswith("tiff") else "png"
        grey = np.rint(deep / 257).astype(np.uint8)
        return saved(deep, ending), ending, Truth(np.repeat(grey[..., None], 3, 2))
    if kind == "rgba":
        ending = rng.choice(("png", "tiff", "webp"))
        on_white = rgb * (alpha / 255) + 255 * (1 - alpha / 255)
        options = {"lossless": True, "exact": True} if ending == "webp" else {}
        return saved(np.concatenate([rgb, alpha], 2), ending, **options), ending, Truth(on_white, 1)
    if kind == "grey alpha":
        on_white = np.repeat(rgb[..., :1] * (alpha / 255) + 255 * (1 - alpha / 255), 3, 2)
        return saved(np.concatenate([rgb[..., :1], alpha], 2), "png"), "png", Truth(on_white, 1)
    if kind == "palette":
        colours, places = np_rng.integers(0, 256, (4, 3), np.uint8), np_rng.integers(0, 4, (height, width), np.uint8)
        image, shown = Image.fromarray(places, "P"), colours.copy()
        image.putpalette(colours.tobytes())
        options = {"transparency": 2} if rng.random() < 0.5 else {}
        if options:
            shown[2] = 255
        return saved(image, "png", **options), "png", Truth(shown[places])
    if kind == "rotated":
        turn, ending = rng.randint(2, 8), rng.choice(("png", "webp", "jpg"))
        exif = Image.Exif()
        exif[0x0112] = turn
        if ending == "jpg":  # one colour in each half: what JPEG keeps
            rgb = np.zeros((16, 32, 3), np.uint8)
            rgb[:, :16], rgb[:, 16:] = rng.choices(range(256), k=3), rng.choices(range(256), k=3)
        options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(ending, {})
        return saved(rgb, ending, exif=exif, **options), ending, Truth(UPRIGHT[turn](rgb), 4 * (ending == "jpg"))
    if kind == "jpeg":
        rgb = np.full((height, width, 3), rng.choices(range(256), k=3), np.uint8)
        return saved(rgb, "jpg", quality=100, subsampling=0), rng.choice(("jpg", "jpeg")), Truth(rgb, 4)
    if kind == "gif":
        flat = np.full((height, width, 3), rng.choices(range(256), k=3), np.uint8)
        return saved(flat, "gif"), "gif", Truth(flat)
    if kind == "float":
        return saved(rgb[..., 0].astype(np.float32), "tiff"), "tiff", Truth(None)
    ending = "png" if plain else rng.choice(("png", "png", "bmp", "tif", "ppm", "webp"))
    return saved(rgb, ending, **({"lossless": True} if ending == "webp" else {})), ending, Truth(rgb)


def saved(pixels: np.ndarray | Image.Image, ending: str, **options) -> bytes:
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(stream, Image.registered_extensions()[f".{ending}"], **options)
    return stream.getvalue()


def disturb(folder: Path, classes: list[str], truth: dict, rng, np_rng) -> None:
    """Add what lies about in folders of images; the truth changes only by what counts as an image."""
    if not classes:
        return
    name, number = rng.choice(classes), rng.randrange(10**6)
    (folder / name).mkdir(exist_ok=True)
    kind = rng.randrange(12)
    if kind == 0:
        hidden = (f"{name}/.ipynb_checkpoints/", f"__MACOSX/{name}/", ".x/", f"{name}/.", f"{name}/._", "__MACOSX/")
        add_image(folder, f"{rng.choice(hidden)}{number}", {}, rng, np_rng)
    elif kind == 1:
        other = rng.choice(("Thumbs.db", "notes.txt", "README", "x.png.part"))
        (folder / rng.choice((name, ".")) / other).write_bytes(b"x")
    elif kind == 2:
        (folder / f"empty {number}" / "deep").mkdir(parents=True)
    elif kind == 3:  # a loop: to the root, to a parent, or to another class
        target = rng.choice((folder, folder / name, folder / rng.choice(classes), folder.parent))
        if target != folder.parent and target.is_dir():
            link(target, folder / name / f"loop{number}")
    elif kind == 4:
        link("nowhere", folder / name / f"gone{number}.png")
        truth[f"{name}/gone{number}.png"] = Truth(None)
    elif kind == 5 and truth:  # a link to a file: the class is that of the link
        path = rng.choice(sorted(truth))
        new = f"{name}/link{number}{posixpath.splitext(path)[1]}"
        link(folder / path, folder / new)
        truth[new] = truth[path]
    elif kind == 6:  # a link to a folder elsewhere
        elsewhere = folder.parent / f"elsewhere{number}"
        inside: dict = {}
        add_image(elsewhere, "sub/1", inside, rng, np_rng)
        at = rng.choice((f"{name}/more{number}", f"linked{number}"))
        link(elsewhere, folder / at)
        truth.update({f"{at}/{path}": one for path, one in inside.items()})
    elif kind == 7 and rng.random() < 0.3:
        add_image(folder, f"stray{number}", truth, rng, np_rng)  # outside the classes: nothing is labelled
    elif kind == 8:
        add_image(folder, f"{name}/{os.fsdecode(bytes([255, 233]))}{number}", truth, rng, np_rng)
    elif kind == 9:
        add_image(folder, f"{name}/two\nlines {number}", truth, rng, np_rng)
    elif kind == 10:
        (folder / name / f"folder{number}.png").mkdir()
    elif kind == 11:
        add_image(folder, f"{name}/a\\b:{number}%20*", truth, rng, np_rng)


def link(target: object, at: Path) -> None:
    if not os.path.lexists(at):
        os.symlink(target, at)


def check_split(root: Path, split: str, truth: dict):
    """Open a split and compare all of it. None where it is empty and refused."""
    try:
        source = open_dataset("", str(root), split)
    except BurnError as error:
        assert not truth, f"{split}: refused: {error}"
        assert "\n" not in str(error), f"{split}: more than one line: {error}"
        return None
    compare(source, truth, split)
    return source


def compare(source, truth: dict, what: str) -> None:
    paths = [posixpath.normpath(source.file_name(index)) for index in range(len(source))]
    assert sorted(paths) == sorted(truth), f"{what}: listed {sorted(set(paths) ^ set(truth))[:3]} wrongly"
    labelled = all("/" in path for path in truth) and len({path.split("/")[0] for path in truth}) > 1
    assert source.labelled == labelled, f"{what}: labelled is {source.labelled}"
    readable = []
    for index, path in enumerate(paths):
        one = truth[path]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image, target = source.load(index)
        except Exception as error:
            assert one.torn or one.pixels is None, f"{what}: {path} cannot be read: {error}"
            assert "\n" not in source.why_unreadable(index)
            continue
        assert one.pixels is not None, f"{what}: {path} was read"
        found = np.asarray(image).astype(float)
        assert image.mode == "RGB" and found.shape == one.pixels.shape, f"{what}: {path}: {image.mode} {found.shape}"
        far = np.abs(found - one.pixels).max()
        assert far <= one.tolerance, f"{what}: {path}: pixels differ by {far:.0f}"
        expected = path.split("/")[0] if labelled else None
        assert (source.class_names[target] if labelled else None) == expected and (labelled or target == -1), (
            f"{what}: {path} has the label {target} of {source.class_names}"
        )
        readable.append((mark(image), target))
    try:
        batches = list(eval_loader(source, mark, batch_size=7, workers=0))
    except BurnError as error:
        assert "\n" not in str(error), f"{what}: more than one line: {error}"
        assert len(readable) < 0.99 * len(paths), f"{what}: the loader gave up: {error}"
        return
    assert len(readable) >= 0.99 * len(paths), f"{what}: the loader skipped too many"
    found = [pair for marks, targets in batches for pair in zip(marks.tolist(), targets.tolist(), strict=True)]
    assert found == [(one.item(), target) for one, target in readable], f"{what}: the loader mixed labels"


def mark(image: Image.Image) -> torch.Tensor:
    """A number that tells the picture from all others."""
    digest = hashlib.sha256(image.tobytes() + repr(image.size).encode()).digest()
    return torch.tensor(int.from_bytes(digest[:7], "little"))


def check_aligned(train, val, truth: dict) -> str:
    """After `align`, a validation image has the training split's number for the name of its class."""
    if train is None or val is None:
        return "empty split refused"
    known, present = set(train.class_names or ()), {path.split("/")[0] for path in truth}
    both = train.labelled and val.labelled
    try:
        aligned = align(val, train)
    except BurnError as error:
        assert both and present - known and "\n" not in str(error), f"align refused: {error}"
        return "unknown class refused"
    assert not both or not present - known, f"align took {present - known}"
    if not both:
        return "a split is unlabelled"
    for index, path in enumerate(val.file_name(index) for index in range(len(val))):
        target = int(aligned.labels()[index])
        assert train.class_names[target] == path.split("/")[0], f"after align: {path} has the label {target}"
    missing = {path.split("/")[0] for path in truth} != known
    return "aligned, a class is missing" if missing else "aligned"
