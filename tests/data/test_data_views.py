"""Each view does what its settings say: geometry, probabilities and strengths against independent oracles."""

import colorsys
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
from sklearn.datasets import load_sample_image
from torchvision.transforms import v2

from burn_timm.data import colour
from burn_timm.data.views import VIEWS, RandomView, make_view, make_views
from burn_timm.errors import BurnError

RANDOM = [name for name in VIEWS if name != "none"]


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(load_sample_image("china.jpg")).resize((160, 107))


def draws(view, image: Image.Image, n: int, seed: int = 0) -> np.ndarray:
    """n views of one image, uint8 [n, 3, H, W]."""
    torch.manual_seed(seed)
    return np.stack([view(image).numpy() for _ in range(n)])


def within(count: int, n: int, p: float) -> bool:
    """Whether a count is within 4.5 standard deviations of the binomial mean."""
    return abs(count - n * p) <= 4.5 * math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("size", [1, 23, 65])
@pytest.mark.parametrize("name", VIEWS)
def test_shape_dtype_and_that_torchs_seed_alone_decides(name, size, photo):
    view = make_view(name, size)
    torch.manual_seed(3)
    first = view(photo)
    random.seed(1)
    np.random.seed(1)
    states = random.getstate(), np.random.get_state()[1].copy()
    torch.manual_seed(3)
    second = pickle.loads(pickle.dumps(view))(photo)
    assert first.shape == (3, size, size) and first.dtype == torch.uint8 and first.is_contiguous()
    assert torch.equal(first, second)
    assert random.getstate() == states[0] and np.array_equal(np.random.get_state()[1], states[1])


@pytest.mark.parametrize(
    ("operation", "oracle", "amounts"),
    [
        (colour.brightness, F.adjust_brightness, (0.0, 0.6, 1.0, 1.4, 1.8)),
        (colour.contrast, F.adjust_contrast, (0.0, 0.6, 1.0, 1.4, 1.8)),
        (colour.saturation, F.adjust_saturation, (0.0, 0.6, 1.0, 1.4, 1.8)),
        (colour.hue, F.adjust_hue, (-0.5, -0.2, -0.1, 0.0, 0.03, 0.1, 0.2, 0.5)),
    ],
)
def test_colours_equal_torchvision(operation, oracle, amounts, photo):
    x = np.asarray(photo).transpose(2, 0, 1) / np.float32(255)
    x[:, :5] = x[:1, :5]  # grey pixels
    x[:, 5:8] = 0
    x[:, 8:11] = 1
    for amount in amounts:
        changed = x.copy()
        operation(changed, amount)
        np.testing.assert_allclose(changed, oracle(torch.from_numpy(x), amount).numpy(), atol=2e-5)
        assert changed.dtype == np.float32


# Solarising and RandAugment turn the ramp round themselves, and so small a crop of it is almost flat.
@pytest.mark.parametrize("name", sorted(set(RANDOM) - {"byol2", "infomin", "swav_small"}))
def test_half_of_the_views_are_mirrored(name):
    ramp = np.tile(np.arange(40, 215, dtype=np.uint8), (175, 1))
    image = Image.fromarray(ramp).convert("RGB")
    views = draws(make_view(name, 32), image, 1000).astype(int)
    mirrored = (views[:, 0, 16, -1] < views[:, 0, 16, 0]).sum()
    assert within(mirrored, 1000, 0.5)
    unflipped = draws(make_view(name, 32, flip_p=0.0), image, 200).astype(int)
    assert (unflipped[:, 0, 16, -1] > unflipped[:, 0, 16, 0]).all()


def crop_by_the_rule(side: int, scale, ratio, rng: np.random.Generator) -> tuple[int, int]:
    """Width and height of an Inception crop of a square image, from the rule as published."""
    for _ in range(10):
        area = side * side * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        width, height = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if width <= side and height <= side:
            return width, height
    return side, side


@pytest.mark.parametrize(
    ("name", "scale", "ratio"),
    [
        ("burn", (0.08, 1), (3 / 4, 4 / 3)),
        ("moco", (0.2, 1), (3 / 4, 4 / 3)),
        ("swav_small", (0.05, 0.14), (3 / 4, 4 / 3)),
        ("light", (0.6, 1), (4 / 5, 5 / 4)),
    ],
)
def test_crops_follow_the_published_rule(name, scale, ratio):
    side, size, n = 224, 64, 1500
    rows, columns = np.mgrid[:side, :side]
    image = Image.fromarray(np.stack([columns, rows, np.zeros_like(rows)], -1).astype(np.uint8))
    settings = dataclasses.replace(VIEWS[name], jitter_p=0.0, grey_p=0.0, blur_p=0.0, flip_p=0.0)
    views = draws(RandomView(settings, size), image, n).astype(float)
    # A pixel of the view spans width / size pixels of the image, so the slope of the ramp tells the crop.
    width = (views[:, 0, 32, 56] - views[:, 0, 32, 8]) / 48 * size
    height = (views[:, 1, 56, 32] - views[:, 1, 8, 32]) / 48 * size
    rng = np.random.default_rng(0)
    expected = np.array([crop_by_the_rule(side, scale, ratio, rng) for _ in range(n)])
    assert ks_2samp(width * height, expected.prod(1)).pvalue > 1e-3
    assert ks_2samp(width / height, expected[:, 0] / expected[:, 1]).pvalue > 1e-3
    slack = 0.02 if scale[1] == 1 else 0.06  # the ramp is read off 8-bit pixels
    assert (width * height / side**2).min() > scale[0] * (1 - 3 * slack)
    assert (width / height).min() > ratio[0] * (1 - slack) and (width / height).max() < ratio[1] * (1 + slack)
    corner = views[:, 0, :, 0].mean(1)
    assert corner.std() > 5 and corner.max() <= side  # crops move


@pytest.mark.parametrize(
    ("name", "jitter_p", "grey_p"),
    [
        ("burn", 0.6, 0.2), ("moco", 0.6, 0.2), ("moco_original", 0.8, 0.2), ("simclr", 0.8, 0.2), ("light", 0.8, 0.0),
    ],
)
def test_how_often_colours_change(name, jitter_p, grey_p):
    n = 1500
    image = Image.new("RGB", (40, 40), (180, 110, 60))  # crop, flip and blur leave one colour alone
    views = draws(make_view(name, 32), image, n).astype(int)
    assert (views.max((2, 3)) == views.min((2, 3))).all()
    pixel = views[:, :, 0, 0]
    untouched = (pixel == [180, 110, 60]).all(1).sum()
    greyed = (pixel.max(1) == pixel.min(1)).sum()
    assert within(untouched, n, (1 - jitter_p) * (1 - grey_p))
    assert greyed == 0 if grey_p == 0 else within(greyed, n, grey_p)


@pytest.mark.parametrize(("name", "strength"), [("burn", 0.4), ("simclr", 0.8), ("light", 0.2)])
def test_brightness_is_uniform_in_its_range(name, strength):
    image = Image.new("RGB", (32, 32), (120, 120, 120))  # grey and flat: only brightness can change it
    pixel = draws(make_view(name, 32), image, 1500)[:, 0, 0, 0].astype(float)
    factors = pixel[pixel != 120] / 120
    assert len(factors) > 700
    assert kstest(factors + np.random.default_rng(0).uniform(-0.5, 0.5, len(factors)) / 120, "uniform",
                  (1 - strength, 2 * strength)).pvalue > 1e-3  # fmt: skip


@pytest.mark.parametrize(("name", "strength"), [("burn", 0.1), ("simclr", 0.2), ("light", 0.0)])
def test_hue_turns_within_its_range(name, strength):
    colours = (125, 105, 85)
    start = colorsys.rgb_to_hsv(*colours)[0]
    pixel = draws(make_view(name, 32), Image.new("RGB", (32, 32), colours), 1000)[:, :, 0, 0].astype(float)
    pixel = pixel[pixel.max(1) - pixel.min(1) >= 25]  # the hue of a near-grey 8-bit colour is all rounding
    pixel = pixel[pixel.max(1) < 250]
    turns = np.array([(colorsys.rgb_to_hsv(*p)[0] - start + 0.5) % 1 - 0.5 for p in pixel])
    assert np.abs(turns).max() < strength + 0.012
    if strength:
        assert turns.max() > 0.8 * strength and turns.min() < -0.8 * strength


def sigma_of(edge: np.ndarray) -> float:
    """Standard deviation in px of the blur that made a row [W] out of a step."""
    spread = np.diff(edge.astype(float))
    position = np.arange(len(spread))
    mean = (spread * position).sum() / spread.sum()
    return math.sqrt(max(0.0, (spread * (position - mean) ** 2).sum() / spread.sum()))


@pytest.mark.parametrize(("name", "blur_p"), [("burn", 0.2), ("moco_original", 0.5), ("light", 0.0)])
@pytest.mark.parametrize(("size", "most"), [(16, 0.0), (48, 0.8), (128, 2.0)])
def test_blur(name, blur_p, size, most):
    step = np.zeros((size, size, 3), np.uint8)
    step[:, size // 2 :] = 255
    still = dataclasses.replace(VIEWS[name], scale=(1.0, 1.0), ratio=(1.0, 1.0), jitter_p=0.0, grey_p=0.0, flip_p=0.0)
    n = 400 if size == 128 else 1500
    views = draws(RandomView(still, size), Image.fromarray(step), n)
    changed = np.array([(view != step.transpose(2, 0, 1)).any() for view in views])
    if blur_p == 0 or most == 0:
        assert not changed.any()
        return
    assert within(changed.sum(), n, blur_p)
    sigmas = np.array([sigma_of(view[0, size // 2]) for view in views[changed]])
    # Pillow's Gaussian is three box filters, and the pixels are 8 bits: a few hundredths of a pixel.
    assert 0.85 * most < sigmas.max() < most + 0.06
    assert sigmas.min() < 0.1 + 0.15 * most


@pytest.mark.parametrize(("name", "blur_p", "solarize_p"), [("byol1", 1.0, 0.0), ("byol2", 0.1, 0.2)])
def test_byols_two_views_differ_in_blur_and_solarising(name, blur_p, solarize_p):
    assert VIEWS[name].blur_p == blur_p
    still = dataclasses.replace(VIEWS[name], jitter_p=0.0, grey_p=0.0, blur_p=0.0)
    n = 1500
    views = draws(RandomView(still, 32), Image.new("RGB", (40, 40), (200, 110, 60)), n).astype(int)
    pixel = views[:, :, 0, 0]
    solarised = (pixel == [55, 110, 60]).all(1)  # 255 - x from 128 on
    assert (solarised | (pixel == [200, 110, 60]).all(1)).all()
    assert within(solarised.sum(), n, solarize_p) if solarize_p else not solarised.any()


def test_randaugment_is_seeded_and_changes_more_than_the_rest(photo):
    plain = dataclasses.replace(VIEWS["infomin"], scale=(1.0, 1.0), jitter_p=0.0, grey_p=0.0, blur_p=0.0, flip_p=0.0)
    without = draws(RandomView(dataclasses.replace(plain, rand_augment=0), 32), photo, 20)
    assert (draws(RandomView(plain, 32), photo, 20) != without).any((1, 2, 3)).mean() > 0.5


def test_a_view_for_each_name(photo):
    one, two = make_views(("byol1", "byol2"), 32, 0.0)
    assert one.settings == VIEWS["byol1"] and two.settings == VIEWS["byol2"] and one.flip_p == 0.0
    assert make_views("moco", 32).settings == VIEWS["moco"]


def test_none_is_resize_and_centre_crop(photo):
    view = make_view("none", 64)(photo)  # 160 x 107 -> 95 x 64 -> 64 x 64
    resized = photo.resize((int(64 * 160 / 107), 64), Image.Resampling.BICUBIC)
    left = round((resized.width - 64) / 2)
    expected = np.asarray(resized.crop((left, 0, left + 64, 64))).transpose(2, 0, 1)
    np.testing.assert_array_equal(view.numpy(), expected)
    state = torch.get_rng_state()
    make_view("none", 64)(photo)
    assert torch.equal(torch.get_rng_state(), state)


def test_crops_are_resized_as_asked_else_as_the_view_says(photo):
    """Against torchvision's own crop; the views behind measured figures stay bicubic."""
    def crop(mode):
        torch.manual_seed(0)
        oracle = v2.RandomResizedCrop(48, (0.2, 1.0), interpolation=v2.InterpolationMode(mode))
        return np.asarray(oracle(photo)).transpose(2, 0, 1)

    bare = dict(jitter_p=0.0, grey_p=0.0, blur_p=0.0, flip_p=0.0)
    assert {name for name in RANDOM if VIEWS[name].interpolation != "bicubic"} == {"moco_original"}
    for name, asked, mode in [
        ("moco", None, "bicubic"), ("moco_original", None, "bilinear"), ("moco", "bilinear", "bilinear"),
    ]:
        settings = dataclasses.replace(make_view(name, 48, None, asked).settings, **bare)
        torch.manual_seed(0)
        np.testing.assert_array_equal(RandomView(settings, 48)(photo).numpy(), crop(mode))
    assert not np.array_equal(crop("bicubic"), crop("bilinear"))
    both = make_views(("byol1", "byol2"), 32, 0.0, "bilinear")
    assert [view.settings.interpolation for view in both] == ["bilinear"] * 2
    assert not torch.equal(make_view("none", 48)(photo), make_view("none", 48, None, "bilinear")(photo))


@pytest.mark.parametrize(("name", "size", "told"), [("dino", 32, "burn, moco"), ("burn", 0, "at least 1")])
def test_bad_input(name, size, told):
    with pytest.raises(BurnError, match=told) as error:
        make_view(name, size)
    assert "\n" not in str(error.value)
