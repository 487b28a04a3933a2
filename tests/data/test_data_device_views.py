"""Views made by the batch against `RandomView`'s on the same draws: by operation, whole, and through the loader."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from burn_timm.data import open_dataset
from burn_timm.data.device_views import DeviceViews, drawn_views
from burn_timm.data.views import VIEWS, Drawn, collate_views, made_views, make_view, make_views, view_groups

from .pictures import STILL, photo, refused, train_loader

CPU = torch.device("cpu")
ON_DEVICE = [name for name in VIEWS if name not in ("none", "infomin")]
NOISE = np.random.default_rng(0).integers(0, 2, (80, 96, 3), dtype=np.uint8) * 255


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """Forty pieces of a photo, 96 x 80; grey, black and white; noise."""
    places = [(30 * (i % 8), 40 * (i // 8)) for i in range(36)]
    plain = [Image.new("RGB", (96, 80), (level,) * 3) for level in (90, 0, 255)]
    pieces = [photo().crop((x, y, x + 320, y + 240)).resize((96, 80)) for x, y in places]
    return [*pieces, *plain, Image.fromarray(NOISE)]


def assert_close(one: torch.Tensor, other: torch.Tensor, most: int, share: float) -> None:
    """At most `most` levels apart, and apart at all in at most this share of the values."""
    assert one.shape == other.shape and one.dtype == other.dtype == torch.uint8
    apart = (one.int() - other.int()).abs()
    assert apart.max() <= most and (apart > 0).float().mean() <= share, (apart.max(), (apart > 0).float().mean())


def assert_as_by_pillow(photos, drawn: list[Drawn], size: int = 48, most: int = 1, share: float = 1e-3) -> None:
    view = make_view("burn", size)
    by_pillow = torch.stack([view.apply(image, one) for image, one in zip(photos, drawn, strict=True)])
    crops = torch.stack([torch.from_numpy(np.array(view.cropped(image, one.crop))).permute(2, 0, 1)
                         for image, one in zip(photos, drawn, strict=True)])
    batch = {"views": crops[:, None], "views_drawn": torch.tensor([[one.numbers()] for one in drawn])}
    assert_close(by_pillow, DeviceViews({"views": [view]})(batch, CPU)["views"][:, 0], most, share)
    assert "views_drawn" in batch  # the caller's own stays as it was


@pytest.mark.parametrize(
    ("operation", "amounts"),
    [(0, (0.0, 0.6, 1.0, 1.8)), (1, (0.0, 0.6, 1.0, 1.8)), (2, (0.0, 0.6, 1.0, 1.8)), (3, (-0.5, -0.1, 0.03, 0.2))],
    ids=("brightness", "contrast", "saturation", "hue"),
)
def test_each_colour_operation(photos, operation, amounts):
    for amount in amounts:
        jitter = list(STILL.jitter)
        jitter[operation] = amount
        drawn = dataclasses.replace(STILL, order=(operation,), jitter=tuple(jitter))
        assert_as_by_pillow(photos, [drawn] * 40)


@pytest.mark.parametrize("change", [{"grey": True}, {"solarise": True}, {"flip": True}, {"grey": True, "flip": True}])
@pytest.mark.parametrize("every", [1, 3])
def test_grey_solarise_and_flip_are_exact(photos, change, every):
    drawn = [STILL if number % every else dataclasses.replace(STILL, **change) for number in range(40)]
    assert_as_by_pillow(photos, drawn, most=0, share=0)


@pytest.mark.parametrize("size", [24, 48, 80])
def test_blur(photos, size):
    sigmas = [0.0, *np.random.default_rng(0).uniform(0.1, 2.0, 38).tolist(), 1.99]  # at 0.5, 1, 2 many sums are halves
    assert_as_by_pillow(
        photos, [dataclasses.replace(STILL, crop=(0, 0, size, size), sigma=sigma) for sigma in sigmas], size,
    )


@pytest.mark.parametrize(("name", "size"), [("burn", 16), ("swav", 64), *((name, 32) for name in ON_DEVICE)])
def test_whole_views(photos, name, size):
    """A level apart before an operation may be more behind it: factors of up to 1.8, three in a row."""
    groups, made = {"views": [make_view(name, size)]}, []
    for make in (drawn_views, made_views):
        torch.manual_seed(0)
        made.append(collate_views([{**make(groups, image), "corrupt": torch.empty(0)} for image in photos]))
    assert_close(made[1]["views"], DeviceViews(groups)(made[0], CPU)["views"], most=6, share=1e-3)


def test_a_loaders_batches(tmp_path, photos):
    """Two different large views and small ones, of images of several sizes."""
    for number, image in enumerate(photos):
        image.resize([(96, 80), (64, 90)][number % 2]).save(tmp_path / f"{number:03d}.png")
    source, views = open_dataset("", tmp_path), make_views(("byol1", "byol2"), 64)
    shape = dict(small_view=make_view("swav_small", 24), n_small_views=3)
    by_workers, drawn, in_workers = (
        list(train_loader(source, views, **shape, **how))
        for how in ({}, {"make": drawn_views}, {"make": drawn_views, "workers": 2})
    )
    make = DeviceViews(view_groups(views, 2, shape["small_view"], 3))
    for batch, given, other in zip(by_workers, drawn, in_workers, strict=True):
        assert given.keys() == other.keys() and all(torch.equal(given[key], other[key]) for key in given)
        done = make(given, CPU)
        assert done.keys() == batch.keys()
        assert torch.equal(done["target"], batch["target"]) and torch.equal(done["corrupt"], batch["corrupt"])
        for key in ("views", "small_views"):
            assert_close(batch[key], done[key], most=6, share=1e-3)


@pytest.mark.parametrize(("name", "told"), [("infomin", "RandAugment"), ("none", "nothing random")])
def test_views_that_are_not_made_on_the_device_are_refused_in_one_line(name, told):
    with refused(f"--views-on device: a view with {told}.*workers"):
        DeviceViews({"views": [make_view(name, 32)]})
