"""Networks whose every parameter matters (a fresh one has shifts of 0 and BatchNorms that do nothing), and convolutions
with inputs on their thresholds: what every 1-bit engine is tested on."""

from dataclasses import dataclass

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import nn

from burn_timm.deploy.c_engine import network_bytes
from burn_timm.deploy.fold import FoldedNetwork, Step
from burn_timm.kernels import native
from burn_timm.nn import Shift

NETWORKS = [
    ("test_reactnet", (4, 3, 64, 64), {}),
    ("test_reactnet", (1, 3, 37, 50), {}),  # an odd side at one level or the other
    ("test_reactnet", (2, 3, 41, 33), {"global_pool": "max"}),
    ("test_reactnet", (2, 3, 17, 63), {"global_pool": "avgmax"}),
    ("test_reactnet", (2, 1, 64, 32), {"global_pool": "catavgmax", "in_chans": 1}),
    ("test_reactnet", (2, 3, 48, 48), {"global_pool": "fastavg", "num_classes": 3}),
    ("test_reactnet", (2, 3, 8, 19), {}),  # one pixel is pooled
    ("test_reactnet", (3, 3, 64, 64), {"num_classes": 0}),
    ("test_reactnet", (3, 3, 64, 64), {"num_classes": 0, "global_pool": "fast"}),
    ("test_reactnet", (3, 3, 64, 64), {"num_classes": 0, "global_pool": ""}),
    ("test_reactnet", (2, 3, 64, 64), {"stem_chs": 5, "channels": (10, 20, 40, 80)}),  # no multiple of 8
    ("reactnet_a_025", (1, 3, 40, 40), {}),
    ("reactnet_18", (1, 3, 75, 64), {"depths": (1, 2, 1, 1)}),
    ("reactnet_18", (1, 3, 64, 64), {"num_classes": 0, "channels": (24, 40, 72, 104), "stem_chs": 24}),
]
INPUTS = [1, 3, 7, 8, 12, 16, 31, 33, 48, 64, 65, 100, 136, 160, 257]
_SIZES = [(1, 1), (1, 5), (2, 2), (7, 7), (6, 9), (13, 4)]


def lively(name="test_reactnet", seed=0, **kwargs):
    """A burn_timm model in eval mode with random shifts, slopes and BatchNorm statistics."""
    torch.manual_seed(seed)
    model = timm.create_model(name, **{"num_classes": 10, **kwargs}).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.5)
        elif isinstance(module, Shift):  # RSign is one
            module.bias.data.normal_(0, 0.3)
        elif isinstance(module, nn.PReLU):
            module.weight.data.uniform_(-0.2, 0.8)
    return model


def errors(got, expected):
    """Relative error of each image: `[B, ...]` twice to `[B]`."""
    got, expected = got.flatten(1).double(), expected.flatten(1).double()
    return (got - expected).norm(dim=1) / expected.norm(dim=1)


def images_of(digits, shape):
    images = F.interpolate(digits[0][: shape[0]].float() / 255 - 0.5, shape[2:], mode="bilinear")[:, : shape[1]]
    return images.contiguous()


def check_outputs(got, model, images):
    """What an engine gives, tensors by name, against the torch model."""
    with torch.no_grad():
        feature_map = model.forward_features(images)
        expected = {"feature_map": feature_map}
        if model.head.global_pool.pool_type:
            expected["features"] = model.forward_head(feature_map, pre_logits=True)
        if model.num_classes:
            expected["logits"] = model.forward_head(feature_map)
    assert got.keys() == expected.keys()
    for output, reference in expected.items():
        assert got[output].shape == reference.shape
        # A value within rounding of a threshold flips its sign in any engine, so one image may be off, but not most.
        assert errors(got[output], reference).median() < (2e-3 if output == "logits" else 1e-4), output


def hard_values(rng, threshold, shape):
    """Half of the values on a threshold, right beside one, zero of both signs, tiny or huge."""
    threshold = threshold.reshape(1, -1, 1, 1)
    beside = np.nextafter(threshold, np.float32(rng.choice([-np.inf, np.inf])))
    special = rng.choice(np.array([0.0, -0.0, 1e-45, -1e-45, -1e-39, 3e38, -3e38], np.float32), shape)
    kind = rng.integers(0, 8, shape)
    x = rng.standard_normal(shape).astype(np.float32)
    for number, values in enumerate((threshold, beside, special)):
        x = np.where(kind == number, values, x)
    return x.astype(np.float32)


@dataclass
class Convolution:
    """x `[N, I, H, W]`, threshold `[I]`, float32; positive `[O, I, k, k]`, bool; expected `[N, O, H', W']`, float64."""

    x: np.ndarray
    threshold: np.ndarray
    positive: np.ndarray
    stride: int
    expected: np.ndarray


def cases_of(inputs, strides):
    """A convolution of each size: over all INPUTS each size meets each of the strides."""
    first = INPUTS.index(inputs)
    return [
        (1 + number % 3, inputs, (1, 5, 16, 33, 64, 100)[(number + inputs) % 6], size,
         strides[(number + first) % len(strides)])
        for number, size in enumerate(_SIZES)
    ]


def convolutions(cases, kernel, seed):
    """Each case is (batch, inputs, outputs, size, stride)."""
    rng = np.random.default_rng(seed)
    for batch, inputs, outputs, size, stride in cases:
        shift = rng.choice(np.array([0.0, -0.0, 0.5, -0.25, 1e-3], np.float32), inputs)
        weight = rng.choice(np.array([-0.5, -1e-30, -0.0, 0.0, 0.7], np.float32), (outputs, inputs, kernel, kernel))
        x = hard_values(rng, -shift, (batch, inputs, *size))
        # float32 as in torch, for x + b decides the sign there; the convolution in float64
        signs = torch.where(torch.from_numpy(x) + torch.from_numpy(shift).view(1, -1, 1, 1) >= 0, 1.0, -1.0).double()
        signed = torch.where(torch.from_numpy(weight) >= 0, 1.0, -1.0).double()
        expected = F.conv2d(signs, signed, stride=stride, padding=kernel // 2).numpy()
        yield Convolution(x, -shift, weight >= 0, stride, expected)


def instruction_sets():
    """Of burn.c, those of this CPU; within a loop over them each is in use."""
    try:
        for name in ("avx512", "avx2", "neon", "plain"):
            if native.load().burn_use(name.encode()) == 0:
                yield name
    finally:
        native.load().burn_use(None)


def content(network, shape):
    """network.bin for images `[B, C, H, W]` that are normalised already."""
    return network_bytes(network, shape[1:], (0.0,) * shape[1], (1.0,) * shape[1])


def counting(case):
    """A network that gives the sums alone, and its images: a stem that copies every second pixel, and a step that adds
    nothing to them."""
    batch, inputs, height, width = case.x.shape
    outputs, _, kernel, _ = case.positive.shape
    ones, zeros = np.ones(outputs, np.float32), np.zeros(outputs, np.float32)
    nothing = np.zeros((outputs, inputs), np.float32)
    pool = case.stride == 2
    step = Step(case.threshold, case.positive, case.stride, kernel // 2, ones, zeros, ones, pool, False, nothing)
    stem = np.eye(inputs, dtype=np.float32)[:, :, None, None]
    network = FoldedNetwork(stem, np.zeros(inputs, np.float32), False, [step], zeros, "", None)
    images = np.zeros((batch, inputs, 2 * height, 2 * width), np.float32)
    images[:, :, ::2, ::2] = case.x.clip(-1e37, 1e37)  # four huge ones must not be infinite
    return network, images
