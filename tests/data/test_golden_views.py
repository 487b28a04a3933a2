"""Views, draws and batches of fixed seeds, as hashes that commit 62ad669 gave: figures measured before depend on them.

A hash that differs means that the views of a seed have changed. Find out why; new hashes make every earlier figure
incomparable. ("digits on device" is younger: small images too are now cropped by the workers, from the same draws.)
"""

import hashlib

import numpy as np
import PIL
import pytest
import torch
from sklearn.datasets import load_sample_image

from burn_timm.data import epoch_order, open_dataset
from burn_timm.data.device_views import drawn_views
from burn_timm.data.views import VIEWS, make_view, make_views

from .pictures import Image, photo, train_loader

# Pillow resizes crops, and its roundings differ between versions.
pillow_13 = pytest.mark.skipif(PIL.__version__.split(".")[0] != "13", reason="the hashes are of Pillow 13")


def digest(*arrays) -> str:
    known = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        known.update(repr((array.shape, str(array.dtype))).encode() + array.tobytes())
    return known.hexdigest()[:16]


PHOTOS = [photo(), photo().crop((40, 30, 140, 110)), photo().crop((0, 0, 33, 65))]
GOLDEN_VIEWS = {
    "burn": "e567c4723e1bdc0b", "moco": "bccc8a1cafb410ac", "moco_original": "296b79343a617061",
    "simclr": "a4fa3b2d4b9d50bd", "byol1": "8eaf9bd488206335", "byol2": "164d56918402c8ed",
    "swav": "5e07a56897f67612", "swav_small": "3bf24344dc3a5d7f", "infomin": "212ab20527772639",
    "supervised": "0bfacba39c5582df", "light": "9b6ba634a41a91e7", "none": "c6efddf116d2aa19",
}


@pillow_13
@pytest.mark.parametrize(("name", "options", "golden"), [
    *((name, {}, golden) for name, golden in GOLDEN_VIEWS.items()),
    ("burn", {"flip_p": 0.0}, "93b8ccdc529d0aa4"), ("moco", {"interpolation": "bilinear"}, "79377592e9c9fcae"),
])
def test_views(name, options, golden):
    assert GOLDEN_VIEWS.keys() == VIEWS.keys()
    torch.manual_seed(7)
    views = [make_view(name, size, **options) for size in (17, 32, 64, 128)]
    assert digest(*[view(image).numpy() for view in views for image in PHOTOS for _ in range(4)]) == golden


def test_draws_and_the_order_of_an_epoch():
    torch.manual_seed(7)
    views = [make_view(name, 32) for name in VIEWS if name not in ("none", "infomin")]
    draws = np.array([view.draw(image).numbers() for view in views for image in PHOTOS for _ in range(20)])
    assert digest(draws) == "04d75ce03baaa166"
    assert digest(epoch_order(3, 5, 1437).numpy(), epoch_order(0, 0, 50_000).numpy()) == "f23f3a4f68ea7476"


def batches_of(source, view="burn", size=32, **options) -> str:
    steps = len(source) // 32
    loader = train_loader(
        source, make_views(view, size), batch_size=16, seed=3, rank=1, world_size=2, start=steps - 1, total=steps + 1,
        **options,
    )
    return digest(*[batch[key].numpy() for batch in loader for key in sorted(batch)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """64 pieces of a photo in different sizes."""
    root, flower = tmp_path_factory.mktemp("photos"), Image.fromarray(load_sample_image("flower.jpg"))
    for number in range(64):
        path = root / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        flower.crop((number, number, 90 + number, 80 + 2 * number)).save(path)
    return root


SMALL = {"view": "swav", "small_view": make_view("swav_small", 16), "n_small_views": 3}


@pillow_13
@pytest.mark.parametrize(("name", "options", "golden"), [
    ("digits", {}, "111447d35387bad4"),
    ("digits", {"view": ("byol1", "byol2"), "workers": 2}, "306ffd13d9a4046e"),
    ("digits", SMALL, "83f640d3ad590559"),
    ("digits", {"make": drawn_views}, "0e4d13b58f3bf1f2"),
    ("folder", {"size": 48}, "8f86fe1a95a9bb73"),
    ("folder", {"size": 48, "make": drawn_views}, "2ea119fd1a288642"),
])
def test_batches(name, options, golden, folder):
    assert batches_of(open_dataset(name, folder if name == "folder" else None), **options) == golden


@pillow_13
@pytest.mark.parametrize(("name", "count", "classes", "side", "golden"), [
    ("cifar10", 50_000, "airplane automobile", 32, "d1511a4fc63cc9ca"),
    ("tiny-imagenet-80", 40_000, "n01629819", 64, "f85c21a9612b910d"),
])
def test_real_photos(name, count, classes, side, golden, burn_data, tmp_path):
    pytest.importorskip("datasets")
    source = open_dataset(f"hfds/$BURN_DATA/{name}", str(tmp_path))
    assert source.description == f"hfds/$BURN_DATA/{name} [train], {count:,} images, {source.num_classes} classes"
    assert " ".join(source.class_names).startswith(classes) and source.load(123)[0].size == (side, side)
    assert name != "cifar10" or f"/{source.class_names[source.load(123)[1]]}/" in source.name(123)
    for workers in (2, 0):  # decoded by workers into the shared cache first
        assert batches_of(source, workers=workers) == golden
