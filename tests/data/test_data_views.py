"""Each view draws what its paper says, and applies what it has drawn: against independent oracles."""

import dataclasses
import math
import pickle
import random

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from PIL import Image
from scipy.stats import ks_2samp, kstest
from torchvision.transforms import v2

from burn_timm.data import colour
from burn_timm.data.views import VIEWS, RandomView, make_view, make_views

from .pictures import STILL, photo, refused

MILD, STRONG = (0.4, 0.4, 0.4, 0.1), (0.8, 0.8, 0.8, 0.2)
# Area of the crop, strengths of brightness, contrast, saturation, hue; probabilities of jitter, grey, blur, solarise.
PUBLISHED = {
    "burn": ((0.08, 1), MILD, 0.6, 0.2, 0.2, 0), "moco": ((0.2, 1), MILD, 0.6, 0.2, 0.2, 0),
    "moco_original": ((0.2, 1), MILD, 0.8, 0.2, 0.5, 0), "simclr": ((0.08, 1), STRONG, 0.8, 0.2, 0.5, 0),
    "byol1": ((0.08, 1), (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 1, 0),
    "byol2": ((0.08, 1), (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 0.1, 0.2),
    "swav": ((0.14, 1), STRONG, 0.8, 0.2, 0.5, 0), "swav_small": ((0.05, 0.14), STRONG, 0.8, 0.2, 0.5, 0),
    "infomin": ((0.2, 1), STRONG, 0.8, 0.2, 0.5, 0), "light": ((0.6, 1), (0.2, 0.2, 0.2, 0), 0.8, 0, 0, 0),
    "supervised": ((0.08, 1), (0, 0, 0, 0), 0, 0, 0, 0),
}
PHOTO = photo().resize((160, 107))


@pytest.mark.parametrize(("name", "size"), [("moco", 1), ("none", 1), ("simclr", 65), *((name, 23) for name in VIEWS)])
def test_shape_dtype_and_that_torchs_seed_alone_decides(name, size):
    view, made = make_view(name, size), []
    for other_seed in (0, 1):
        random.seed(other_seed)
        np.random.seed(other_seed)
        states = random.getstate(), np.random.get_state()[1].copy()
        torch.manual_seed(3)
        made.append(pickle.loads(pickle.dumps(view))(PHOTO))
        assert random.getstate() == states[0] and np.array_equal(np.random.get_state()[1], states[1])
    assert made[0].shape == (3, size, size) and made[0].dtype == torch.uint8 and made[0].is_contiguous()
    assert torch.equal(*made)


def crop_by_the_rule(side: int, scale, ratio, rng: np.random.Generator) -> tuple[int, int]:
    """Width and height of an Inception crop of a square image, from the rule as published."""
    for _ in range(10):
        area = side * side * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        width, height = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if width <= side and height <= side:
            return width, height
    return side, side


@pytest.mark.parametrize(("name", "size", "most_sigma"), [
    ("burn", 16, 0.0), *((name, 48, 0.8) for name in PUBLISHED), ("swav", 128, 2.0),
])
def test_what_is_drawn_is_distributed_as_published(name, size, most_sigma):
    scale, strengths, jitter_p, grey_p, blur_p, solarise_p = PUBLISHED[name]
    ratio, n, side = (4 / 5, 5 / 4) if name == "light" else (3 / 4, 4 / 3), 1500, 224
    rng = np.random.default_rng(0)
    view, image = make_view(name, size), Image.new("RGB", (side, side))
    drawn = [view.draw(image) for _ in range(n)]

    def share(found: list[bool], p: float) -> bool:
        """Within 4.5 standard deviations of the binomial mean."""
        return abs(sum(found) - n * p) <= 4.5 * math.sqrt(n * p * (1 - p))

    def uniform(values: list[float], least: float, most: float) -> bool:
        return len(values) > 100 and kstest(values, "uniform", (least, most - least)).pvalue > 1e-3

    assert share([one.flip for one in drawn], 0.5) and share([one.grey for one in drawn], grey_p)
    assert share([one.solarise for one in drawn], solarise_p)
    assert share([bool(one.order) for one in drawn], jitter_p)
    for which, strength in enumerate(strengths):
        middle = 0 if which == 3 else 1
        values = [one.jitter[which] for one in drawn if which in one.order]
        assert uniform(values, middle - strength, middle + strength) if strength else not values
    orders = {one.order for one in drawn if one.order}
    assert len(orders) == (math.factorial(sum(map(bool, strengths))) if jitter_p else 0)
    sigmas = [one.sigma for one in drawn if one.sigma]
    assert share([bool(one.sigma) for one in drawn], blur_p if most_sigma else 0)
    assert not sigmas or uniform(sigmas, 0.1, most_sigma)

    top, left, height, width = np.array([one.crop for one in drawn]).T
    expected = np.array([crop_by_the_rule(side, scale, ratio, rng) for _ in range(n)])
    assert ks_2samp(width * height, expected.prod(1)).pvalue > 1e-3
    assert ks_2samp(width / height, expected[:, 0] / expected[:, 1]).pvalue > 1e-3
    for place, extent in ((top, height), (left, width)):
        assert place.min() >= 0 and (place + extent).max() <= side
        assert ks_2samp(place, rng.integers(0, side - extent + 1)).pvalue > 1e-3
    assert not any(make_view(name, size, flip_p=0.0).draw(image).flip for _ in range(50))


@pytest.mark.parametrize(
    ("operation", "oracle", "amounts"),
    [
        (colour.brightness, F.adjust_brightness, (0.0, 0.6, 1.0, 1.4, 1.8)),
        (colour.contrast, F.adjust_contrast, (0.0, 0.6, 1.0, 1.4, 1.8)),
        (colour.saturation, F.adjust_saturation, (0.0, 0.6, 1.0, 1.4, 1.8)),
        (colour.hue, F.adjust_hue, (-0.5, -0.2, -0.1, 0.0, 0.03, 0.1, 0.2, 0.5)),
    ],
)
def test_colours_equal_torchvision(operation, oracle, amounts):
    x = np.asarray(PHOTO).transpose(2, 0, 1) / np.float32(255)
    x[:, :5] = x[:1, :5]  # grey pixels
    x[:, 5:8] = 0
    x[:, 8:11] = 1
    for amount in amounts:
        changed = x.copy()
        operation(changed, amount)
        np.testing.assert_allclose(changed, oracle(torch.from_numpy(x), amount).numpy(), atol=2e-5)
        assert changed.dtype == np.float32


def test_each_drawn_choice_is_applied():
    image = PHOTO.crop((0, 0, 48, 48))
    view = make_view("burn", 48)
    plain = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())

    def applied(**changes):
        return view.apply(image, dataclasses.replace(STILL, **changes)).int()

    assert torch.equal(applied(), plain) and torch.equal(applied(flip=True), plain.flip(-1))
    assert torch.equal(applied(solarise=True), torch.where(plain < 128, plain, 255 - plain))
    assert (applied(grey=True) - F.rgb_to_grayscale(plain, 3)).abs().max() <= 1
    expected = F.adjust_contrast(F.adjust_hue(plain / 255, 0.1), 1.3) * 255
    assert (applied(order=(3, 1), jitter=(1.0, 1.3, 1.0, 0.1)) - expected).abs().max() <= 1


@pytest.mark.parametrize("sigma", [0.3, 0.8, 2.0])
def test_the_blur_has_its_width(sigma):
    step = np.zeros((128, 128, 3), np.uint8)
    step[:, 64:] = 255
    view = make_view("burn", 128).apply(
        Image.fromarray(step), dataclasses.replace(STILL, crop=(0, 0, 128, 128), sigma=sigma),
    )
    spread = np.diff(view[0, 64].double().numpy())
    position = np.arange(len(spread))
    mean = (spread * position).sum() / spread.sum()
    found = math.sqrt((spread * (position - mean) ** 2).sum() / spread.sum())
    assert found == pytest.approx(sigma, abs=0.06)  # Pillow's Gaussian is three box filters, and the pixels are 8 bits


def test_randaugment_is_seeded_and_changes_more_than_the_rest():
    plain = dataclasses.replace(VIEWS["infomin"], scale=(1.0, 1.0), jitter_p=0.0, grey_p=0.0, blur_p=0.0, flip_p=0.0)
    without, augmented = (
        torch.stack([RandomView(dataclasses.replace(plain, rand_augment=operations), 32)(PHOTO) for _ in range(20)])
        for operations in (0, 2)
    )
    assert (augmented != without).flatten(1).any(1).double().mean() > 0.5


def test_none_is_resize_and_centre_crop():
    state = torch.get_rng_state()
    view = make_view("none", 64)(PHOTO)  # 160 x 107 -> 95 x 64 -> 64 x 64
    resized = PHOTO.resize((int(64 * 160 / 107), 64), Image.Resampling.BICUBIC)
    left = round((resized.width - 64) / 2)
    expected = np.asarray(resized.crop((left, 0, left + 64, 64))).transpose(2, 0, 1)
    np.testing.assert_array_equal(view.numpy(), expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(make_view("none", 48)(PHOTO), make_view("none", 48, None, "bilinear")(PHOTO))


@pytest.mark.parametrize(("name", "asked", "mode"), [
    ("moco", None, "bicubic"), ("moco_original", None, "bilinear"), ("moco", "bilinear", "bilinear"),
])
def test_crops_are_resized_as_asked_else_as_the_view_says(name, asked, mode):
    """Against torchvision's own crop; the views behind measured figures stay bicubic."""
    bare = dict(jitter_p=0.0, grey_p=0.0, blur_p=0.0, flip_p=0.0)
    view = RandomView(dataclasses.replace(make_view(name, 48, None, asked).settings, **bare), 48)
    oracle = v2.RandomResizedCrop(48, (0.2, 1.0), interpolation=v2.InterpolationMode(mode))
    torch.manual_seed(0)
    expected = np.asarray(oracle(PHOTO)).transpose(2, 0, 1)
    torch.manual_seed(0)
    np.testing.assert_array_equal(view(PHOTO).numpy(), expected)
    assert {name for name in PUBLISHED if VIEWS[name].interpolation != "bicubic"} == {"moco_original"}


def test_a_view_for_each_name_and_bad_input():
    views = make_views(("byol1", "byol2"), 32, 0.0, "bilinear")
    assert [view.settings for view in views] == [
        dataclasses.replace(VIEWS[name], interpolation="bilinear") for name in ("byol1", "byol2")
    ]
    assert views[0].flip_p == 0.0 and make_views("moco", 32).settings == VIEWS["moco"]
    for name, size, told in (("dino", 32, "burn, moco"), ("burn", 0, "at least 1")):
        with refused(told):
            make_view(name, size)
