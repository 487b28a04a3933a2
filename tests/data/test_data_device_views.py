"""Views made by the batch against `RandomView`'s on the same draws: by operation, whole, and through the loader."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from burn_timm.data import open_dataset
from burn_timm.data.device_views import DeviceViews
from burn_timm.data.views import VIEWS, Drawn, RandomView, make_view, make_views

from .pictures import refused, train_loader

CPU = torch.device("cpu")
ON_DEVICE = [name for name in VIEWS if name not in ("none", "infomin")]
STILL = Drawn((0, 0, 48, 48), (), (1.0, 1.0, 1.0, 0.0), False, 0.0, False, False)


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """Forty pieces of a photo, 96 x 80."""
    photo = Image.fromarray(load_sample_image("china.jpg"))
    places = [(30 * (i % 8), 40 * (i // 8)) for i in range(40)]
    return [photo.crop((x, y, x + 320, y + 240)).resize((96, 80)) for x, y in places]


def both(view: RandomView, images: list[Image.Image], drawn: list[Drawn]) -> tuple[np.ndarray, np.ndarray]:
    """Pillow's views and the device's, int [N, 3, S, S] each."""
    one_by_one = torch.stack([view.apply(image, one) for image, one in zip(images, drawn, strict=True)])
    batch = {
        "images": torch.from_numpy(np.stack([np.asarray(image) for image in images])),
        "views_drawn": torch.tensor([[one.numbers()] for one in drawn]), "target": torch.arange(len(images)),
    }
    done = DeviceViews(view, 1)(batch, CPU)
    assert done.keys() == {"views", "target"} and done["views"].dtype == torch.uint8
    assert "images" in batch  # the caller's own stays as it was
    return one_by_one.int().numpy(), done["views"][:, 0].int().numpy()


def assert_close(one, other, most: int, share: float) -> None:
    """At most `most` levels apart, and apart at all in at most this share of the values."""
    apart = np.abs(one - other)
    assert apart.max() <= most and (apart > 0).mean() <= share, (apart.max(), (apart > 0).mean())


def without_crop(photos, size: int = 48) -> list[Image.Image]:
    return [photo.crop((0, 0, size, size)) for photo in photos]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crops(photos, interpolation):
    view = make_view("moco", 48, 0.0, interpolation)
    ties = 1e-3 if interpolation == "bicubic" else 0.03  # linear weights are simple fractions: many sums are halves
    rng = np.random.default_rng(0)
    wide, tall = [], []
    for _ in photos:
        height, width = sorted(rng.integers(4, 81, 2).tolist())
        wide.append(dataclasses.replace(STILL, crop=(80 - height, 96 - width, height, width)))
        tall.append(dataclasses.replace(STILL, crop=(0, 0, width, height)))
    sharp = [Image.fromarray(rng.integers(0, 2, (80, 96, 3), dtype=np.uint8) * 255) for _ in photos]  # overshoots
    for images in (photos, sharp):
        assert_close(*both(view, images, wide), most=1, share=ties)
    assert_close(*both(view, photos, tall), most=4, share=0.15)  # Pillow 13 resizes these along the height first
    whole = [dataclasses.replace(STILL, crop=(0, 0, 80, 96))] * len(photos)
    assert_close(*both(make_view("moco", 48, 0.0, interpolation), photos, whole), most=1, share=ties)
    own_size = [dataclasses.replace(STILL, crop=(number % 30, number, 48, 48)) for number in range(40)]
    assert_close(*both(view, photos, own_size), most=0, share=0)


@pytest.mark.parametrize(
    ("operation", "amounts"),
    [(0, (0.0, 0.6, 1.0, 1.8)), (1, (0.0, 0.6, 1.0, 1.8)), (2, (0.0, 0.6, 1.0, 1.8)), (3, (-0.5, -0.1, 0.03, 0.2))],
    ids=("brightness", "contrast", "saturation", "hue"),
)
def test_each_colour_operation(photos, operation, amounts):
    images = without_crop(photos)
    images[0] = Image.new("RGB", (48, 48), (90, 90, 90))  # no hue, no contrast
    images[1] = Image.new("RGB", (48, 48))
    images[2] = Image.new("RGB", (48, 48), (255, 255, 255))
    for amount in amounts:
        jitter = list(STILL.jitter)
        jitter[operation] = amount
        drawn = [dataclasses.replace(STILL, order=(operation,), jitter=tuple(jitter))] * len(images)
        assert_close(*both(make_view("burn", 48), images, drawn), most=1, share=1e-3)


def test_the_order_of_the_colour_operations(photos):
    rng = np.random.default_rng(0)
    orders = [tuple(rng.permutation(4)[: number % 5].tolist()) for number in range(40)]
    drawn = [dataclasses.replace(STILL, order=order, jitter=(1.3, 0.7, 1.6, 0.1)) for order in orders]
    assert_close(*both(make_view("burn", 48), without_crop(photos), drawn), most=1, share=1e-3)


@pytest.mark.parametrize("change", [{"grey": True}, {"solarise": True}, {"flip": True}, {"grey": True, "flip": True}])
@pytest.mark.parametrize("every", [1, 3])
def test_grey_solarise_and_flip_are_exact(photos, change, every):
    drawn = [STILL if number % every else dataclasses.replace(STILL, **change) for number in range(40)]
    assert_close(*both(make_view("burn", 48), without_crop(photos), drawn), most=0, share=0)


@pytest.mark.parametrize("size", [24, 48, 80])
def test_blur(photos, size):
    images = without_crop(photos, size)
    rng = np.random.default_rng(0)
    images[0] = Image.fromarray(rng.integers(0, 2, (size, size, 3), dtype=np.uint8) * 255)
    sigmas = [1.99, 0.0, *rng.uniform(0.1, 2.0, 38).tolist()]  # at round values (0.5, 1, 2) many sums are halves
    drawn = [dataclasses.replace(STILL, crop=(0, 0, size, size), sigma=sigma) for sigma in sigmas]
    assert_close(*both(make_view("burn", size), images, drawn), most=1, share=1e-3)


@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("name", ON_DEVICE)
def test_whole_views(photos, name, size):
    """A level apart before the colours may be more behind them: factors of up to 1.8, three in a row."""
    view = make_view(name, size)
    torch.manual_seed(0)
    drawn = [view.draw(image) for image in photos * 5]
    one, other = both(view, photos * 5, drawn)
    assert_close(one, other, most=16, share=0.05)
    assert np.abs(one - other).mean() < 0.06
    wide = np.array([drawn.crop[3] >= drawn.crop[2] for drawn in drawn])  # which every Pillow resizes in our order
    assert_close(one[wide], other[wide], most=6, share=2e-2 if view.settings.interpolation == "bilinear" else 1e-3)


@pytest.mark.parametrize("sizes", [[(96, 80)], [(96, 80), (64, 90)], [(300, 200)]], ids=("one", "mixed", "large"))
def test_a_loaders_batches(tmp_path, photos, sizes):
    """Two different large views and small ones; small images of one size are cropped on the device, others not."""
    for number, photo in enumerate(photos):
        photo.resize(sizes[number % len(sizes)]).save(tmp_path / f"{number:03d}.png")
    source, views = open_dataset("", tmp_path), make_views(("byol1", "byol2"), 64)
    shape = dict(small_view=make_view("swav_small", 24), n_small_views=3)
    by_workers, drawn, in_workers = (
        list(train_loader(source, views, **shape, **how))
        for how in ({}, {"views_on": "device"}, {"views_on": "device", "workers": 2})
    )
    make = DeviceViews(views, 2, shape["small_view"], 3)
    assert len(drawn) == 4
    for batch, given, other in zip(by_workers, drawn, in_workers, strict=True):
        assert given.keys() == other.keys() and all(torch.equal(given[key], other[key]) for key in given)
        assert ("images" in given) == (sizes == [(96, 80)]) != ("views" in given)
        done = make(given, CPU)
        assert done.keys() == batch.keys()
        assert torch.equal(done["target"], batch["target"]) and torch.equal(done["corrupt"], batch["corrupt"])
        for key in ("views", "small_views"):
            assert done[key].shape == batch[key].shape and done[key].dtype == torch.uint8
            one, other = batch[key].int().numpy(), done[key].int().numpy()
            most, share = (16, 0.05) if "images" in given else (1, 1e-3)  # the latter of Pillow's own crops
            assert_close(one, other, most, share)


@pytest.mark.parametrize(("name", "told"), [("infomin", "RandAugment"), ("none", "nothing random")])
def test_views_that_are_not_made_on_the_device_are_refused_in_one_line(name, told):
    with refused(f"--views-on device: a view with {told}.*workers"):
        train_loader(open_dataset("digits"), make_view(name, 32), views_on="device")
