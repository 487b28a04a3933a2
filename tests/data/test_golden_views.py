"""Views, draws and batches of fixed seeds, as hashes that commit 62ad669 gave: figures measured before depend on them.

A hash that differs means that the views of a seed have changed. Find out why; new hashes make every earlier figure
incomparable.
"""

import hashlib

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from burn_timm.data import epoch_order, make_train_loader, micro_steps_per_epoch, open_dataset
from burn_timm.data.views import VIEWS, make_view, make_views

# Pillow resizes crops, and its roundings differ between versions.
pillow_13 = pytest.mark.skipif(PIL.__version__.split(".")[0] != "13", reason="the hashes are of Pillow 13")


def digest(*arrays) -> str:
    known = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        known.update(repr((array.shape, str(array.dtype))).encode() + array.tobytes())
    return known.hexdigest()[:16]


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    photo = Image.fromarray(load_sample_image("china.jpg"))
    return [photo, photo.crop((40, 30, 140, 110)), photo.crop((0, 0, 33, 65))]


def views_of(name: str, photos, sizes=(17, 32, 64, 128), **options) -> str:
    torch.manual_seed(7)
    views = [make_view(name, size, **options) for size in sizes]
    return digest(*[view(photo).numpy() for view in views for photo in photos for _ in range(4)])


def draws_of(photos) -> str:
    torch.manual_seed(7)
    views = [make_view(name, 32) for name in VIEWS if name not in ("none", "infomin")]
    return digest(np.array([view.draw(photo).numbers() for view in views for photo in photos for _ in range(20)]))


def batches_of(source, view="burn", size=32, workers=0, **options) -> str:
    steps = micro_steps_per_epoch(len(source), 16, 2)
    loader = make_train_loader(
        source, make_views(view, size), batch_size=16, seed=3, rank=1, world_size=2, start_micro_step=steps - 1,
        micro_steps_per_epoch=steps, total_micro_steps=steps + 1, workers=workers, **{"n_views": 2, **options},
    )
    return digest(*[batch[key].numpy() for batch in loader for key in sorted(batch)])


def sources(folder) -> dict:
    """A source of each kind, with the batches' options."""
    for number in range(64):
        path = folder / "kinds" / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo = Image.fromarray(load_sample_image("flower.jpg"))
        photo.crop((number, number, 90 + number, 80 + 2 * number)).save(path)
    return {
        "digits": (open_dataset("digits"), {}),
        "digits, byol": (open_dataset("digits"), {"view": ("byol1", "byol2"), "workers": 2}),
        "digits, small views": (
            open_dataset("digits"), {"view": "swav", "small_view": make_view("swav_small", 16), "n_small_views": 3},
        ),
        "folder": (open_dataset("", str(folder / "kinds")), {"size": 48}),
        "digits on device": (open_dataset("digits"), {"views_on": "device"}),
        "folder on device": (open_dataset("", str(folder / "kinds")), {"size": 48, "views_on": "device"}),
    }


GOLDEN = {
    "burn": "e567c4723e1bdc0b",
    "moco": "bccc8a1cafb410ac",
    "moco_original": "296b79343a617061",
    "simclr": "a4fa3b2d4b9d50bd",
    "byol1": "8eaf9bd488206335",
    "byol2": "164d56918402c8ed",
    "swav": "5e07a56897f67612",
    "swav_small": "3bf24344dc3a5d7f",
    "infomin": "212ab20527772639",
    "supervised": "0bfacba39c5582df",
    "light": "9b6ba634a41a91e7",
    "none": "c6efddf116d2aa19",
    "burn without mirror images": "93b8ccdc529d0aa4",
    "moco bilinear": "79377592e9c9fcae",
    "draws": "04d75ce03baaa166",
    "order": "f23f3a4f68ea7476",
    "digits": "111447d35387bad4",
    "digits, byol": "306ffd13d9a4046e",
    "digits, small views": "83f640d3ad590559",
    "folder": "8f86fe1a95a9bb73",
    "digits on device": "64504d486b388718",
    "folder on device": "2ea119fd1a288642",
    "cifar10": "d1511a4fc63cc9ca",
    "tiny-imagenet-80": "f85c21a9612b910d",
}


@pillow_13
@pytest.mark.parametrize("name", VIEWS)
def test_views(name, photos):
    assert views_of(name, photos) == GOLDEN[name]


@pillow_13
def test_options_of_views(photos):
    assert views_of("burn", photos, flip_p=0.0) == GOLDEN["burn without mirror images"]
    assert views_of("moco", photos, interpolation="bilinear") == GOLDEN["moco bilinear"]


def test_draws_and_the_order_of_an_epoch(photos):
    assert draws_of(photos) == GOLDEN["draws"]
    assert digest(epoch_order(3, 5, 1437).numpy(), epoch_order(0, 0, 50_000).numpy()) == GOLDEN["order"]


@pillow_13
def test_batches(tmp_path):
    found = {name: batches_of(source, **options) for name, (source, options) in sources(tmp_path).items()}
    assert found == {name: GOLDEN[name] for name in found}


@pillow_13
@pytest.mark.parametrize("name", ["cifar10", "tiny-imagenet-80"])
def test_batches_of_real_photos(name, burn_data, tmp_path):
    pytest.importorskip("datasets")
    source = open_dataset(f"hfds/$BURN_DATA/{name}", str(tmp_path))
    assert batches_of(source) == GOLDEN[name]
