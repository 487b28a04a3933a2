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


def views_of(name: str, size: int, photos, **options) -> str:
    view = make_view(name, size, **options)
    torch.manual_seed(7)
    return digest(*[view(photo).numpy() for photo in photos for _ in range(4)])


def draws_of(name: str, size: int, photos) -> str:
    view = make_view(name, size)
    torch.manual_seed(7)
    return digest(np.array([view.draw(photo).numbers() for photo in photos for _ in range(20)]))


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
    "burn 17": "3a4e72c15d089ea5",
    "burn 32": "1408dad39b0b50e8",
    "burn 64": "6d3d8675edb9b09e",
    "burn 128": "af11724bf05725f1",
    "moco 17": "f6a4ed5a95868002",
    "moco 32": "82bd73633960cea8",
    "moco 64": "69fce8d074adf895",
    "moco 128": "3ab1165120955eb1",
    "moco_original 17": "ad0368dbe93012a0",
    "moco_original 32": "870d3fae86036b46",
    "moco_original 64": "211465095eb64af8",
    "moco_original 128": "59738bc15c10a000",
    "simclr 17": "edeaeb1e4b7a2f6c",
    "simclr 32": "d0b086c416878761",
    "simclr 64": "5f8effa6bb19f2ea",
    "simclr 128": "b6b191a5b1dc3c9f",
    "byol1 17": "7d1dcc5136b5b6a2",
    "byol1 32": "39e978f313002fa1",
    "byol1 64": "fbe7869753285249",
    "byol1 128": "cbc2279b3d2b424f",
    "byol2 17": "f0a82d7fd0bc95a6",
    "byol2 32": "02cf1c4aee98fef5",
    "byol2 64": "54c49dbf10f1fe9b",
    "byol2 128": "873e999e93349770",
    "swav 17": "e44d27222a64516d",
    "swav 32": "fb00e3ba19b4e502",
    "swav 64": "b9a5e9e562069f2a",
    "swav 128": "634af4ba3f7818e0",
    "swav_small 17": "8575577fd7294e6c",
    "swav_small 32": "559aecbdb3d0050a",
    "swav_small 64": "989851e7424ac40d",
    "swav_small 128": "27c576ef350afd55",
    "infomin 17": "ba5b524343ace3cc",
    "infomin 32": "2c41c6755e711966",
    "infomin 64": "974a5450fda29e3e",
    "infomin 128": "7d430b1542cfccfd",
    "supervised 17": "ddbddf8907699ba5",
    "supervised 32": "163e46b309f05db7",
    "supervised 64": "d7867394debd5405",
    "supervised 128": "cb3659efb1bad1d0",
    "light 17": "7edaf9a24e8cd67b",
    "light 32": "2c4011a5e8f7b5d2",
    "light 64": "cca2e766280acf06",
    "light 128": "70ba092fb4da4aea",
    "none 17": "5927a99d4a7d9127",
    "none 32": "fbe38ac897d8a9e2",
    "none 64": "6ce46bfe8b14f8e8",
    "none 128": "6f6872a8610192fb",
    "burn without mirror images": "6ca69fd657985381",
    "moco bilinear": "eb1cc3e827892935",
    "draws of burn": "3202aaf99b062c04",
    "draws of moco": "074aab675b35f686",
    "draws of moco_original": "619ee63b23fb2141",
    "draws of simclr": "8935bb65e5f3fd3d",
    "draws of byol1": "862a884b98adc46a",
    "draws of byol2": "f3f42cd67212f016",
    "draws of swav": "b3a1093739fdbdec",
    "draws of swav_small": "7b690965c377fcdb",
    "draws of supervised": "fef1e1b6b36ee990",
    "draws of light": "1772458b1e99ac4f",
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
@pytest.mark.parametrize("size", [17, 32, 64, 128])
@pytest.mark.parametrize("name", VIEWS)
def test_views(name, size, photos):
    assert views_of(name, size, photos) == GOLDEN[f"{name} {size}"]


@pillow_13
def test_options_of_views(photos):
    assert views_of("burn", 32, photos, flip_p=0.0) == GOLDEN["burn without mirror images"]
    assert views_of("moco", 32, photos, interpolation="bilinear") == GOLDEN["moco bilinear"]


@pytest.mark.parametrize("name", [name for name in VIEWS if name not in ("none", "infomin")])
def test_draws(name, photos):
    assert draws_of(name, 32, photos) == GOLDEN[f"draws of {name}"]


def test_order_of_an_epoch():
    assert digest(epoch_order(3, 5, 1437).numpy(), epoch_order(0, 0, 50_000).numpy()) == GOLDEN["order"]


@pillow_13
def test_batches(tmp_path):
    assert {name: batches_of(source, **options) for name, (source, options) in sources(tmp_path).items()} == {
        name: GOLDEN[name] for name in sources(tmp_path)
    }


@pillow_13
@pytest.mark.parametrize("name", ["cifar10", "tiny-imagenet-80"])
def test_batches_of_real_photos(name, burn_data, tmp_path):
    pytest.importorskip("datasets")
    source = open_dataset(f"hfds/$BURN_DATA/{name}", str(tmp_path))
    assert batches_of(source) == GOLDEN[name]
