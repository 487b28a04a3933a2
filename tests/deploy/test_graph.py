"""OpenVINO's 1-bit network against torch: each convolution exactly, whole networks by tolerance."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("openvino")

import openvino as ov
from openvino import opset13 as ops

from burn_timm.deploy.engine import core, cpu_settings
from burn_timm.deploy.fold import fold
from burn_timm.deploy.graph import binary_convolution, build
from burn_timm.errors import BurnError
from deploy.networks import errors, lively

SIZES = [(1, 1), (1, 5), (2, 2), (7, 7), (6, 9), (13, 4)]


def run(inputs, nodes, *arrays):
    compiled = core().compile_model(ov.Model(nodes, inputs, "test"), "CPU", cpu_settings(1))
    return list(compiled(list(arrays)).values())


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


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("inputs", [1, 3, 7, 8, 12, 16, 31, 33, 48, 64, 65, 100, 136, 160, 257])
def test_a_binary_convolution_is_exact(inputs, kernel, stride):
    cases = [
        (1 + number % 3, inputs, (1, 5, 16, 33, 64, 100)[(number + inputs) % 6], size, stride)
        for number, size in enumerate(SIZES)
    ]
    check_exact(cases, kernel, seed=1000 * inputs + 10 * kernel + stride)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_binary_convolution_is_exact_in_images_of_every_width(kernel):
    """The kernels work in strips of several pixels, with other code at both ends."""
    widths = [*range(1, 41), 56, 75, 112]
    check_exact([(1, 16, 24, (4, width), stride) for width in widths for stride in (1, 2)], kernel, seed=0)


def check_exact(cases, kernel, seed):
    """Each case is (batch, inputs, outputs, size, stride)."""
    rng = np.random.default_rng(seed)
    images, nodes, arrays, expected, buffers = [], [], [], [], []
    for batch, inputs, outputs, size, stride in cases:
        shift = rng.choice(np.array([0.0, -0.0, 0.5, -0.25, 1e-3], np.float32), inputs)
        weight = rng.choice(np.array([-0.5, -1e-30, -0.0, 0.0, 0.7], np.float32), (outputs, inputs, kernel, kernel))
        x = hard_values(rng, -shift, (batch, inputs, *size))
        image = ops.parameter(list(x.shape), np.float32)
        node = binary_convolution(image, -shift, weight >= 0, stride, kernel // 2, buffers)
        images.append(image)
        nodes.append(node)
        arrays.append(x)
        # float32 as in torch, for x + b decides the sign there; the convolution in float64
        signs = torch.where(torch.from_numpy(x) + torch.from_numpy(shift).view(1, -1, 1, 1) >= 0, 1.0, -1.0).double()
        signed = torch.where(torch.from_numpy(weight) >= 0, 1.0, -1.0).double()
        expected.append(F.conv2d(signs, signed, stride=stride, padding=kernel // 2))
    for got, reference in zip(run(images, nodes, *arrays), expected, strict=True):
        assert got.shape == tuple(reference.shape)
        np.testing.assert_array_equal(got.astype(np.float64), reference.numpy())


@pytest.mark.parametrize("kernel", [2, 5])
def test_other_kernels_are_refused(kernel):
    image = ops.parameter([1, 8, 9, 9], np.float32)
    with pytest.raises(BurnError, match=f"a binary {kernel}x{kernel} convolution .* only 1x1 and 3x3"):
        binary_convolution(image, np.zeros(8, np.float32), np.ones((8, 8, kernel, kernel), bool), 1, kernel // 2, [])


def outputs_of(model, x):
    graph, buffers = build(fold(model), tuple(x.shape))
    compiled = core().compile_model(graph, "CPU", cpu_settings(1))
    results = compiled(x.numpy()).items()
    return {next(iter(output.names)): torch.from_numpy(np.array(value)) for output, value in results}


@pytest.mark.parametrize(("name", "shape", "options"), [
    ("test_reactnet", (4, 3, 64, 64), {}),
    ("test_reactnet", (1, 3, 37, 50), {}),  # an odd side at one level or the other
    ("test_reactnet", (2, 3, 41, 33), {"global_pool": "max"}),
    ("test_reactnet", (2, 3, 17, 63), {"global_pool": "avgmax"}),
    ("test_reactnet", (2, 1, 64, 32), {"global_pool": "catavgmax", "in_chans": 1}),
    ("test_reactnet", (2, 3, 48, 48), {"global_pool": "fastavg", "num_classes": 3}),
    ("test_reactnet", (3, 3, 64, 64), {"num_classes": 0}),
    ("test_reactnet", (3, 3, 64, 64), {"num_classes": 0, "global_pool": ""}),
    ("test_reactnet", (2, 3, 64, 64), {"stem_chs": 5, "channels": (10, 20, 40, 80)}),  # no multiple of 8
    ("reactnet_a_025", (1, 3, 40, 40), {}),
    ("reactnet_18", (1, 3, 75, 64), {"depths": (1, 2, 1, 1)}),
    ("reactnet_18", (1, 3, 64, 64), {"num_classes": 0, "channels": (24, 40, 72, 104), "stem_chs": 24}),
])
def test_a_network_does_what_torch_does(name, shape, options, digits):
    model = lively(name, **options)
    images = F.interpolate(digits[0][: shape[0]].float() / 255 - 0.5, shape[2:], mode="bilinear")[:, : shape[1]]
    got = outputs_of(model, images.contiguous())
    with torch.no_grad():
        feature_map = model.forward_features(images)
        expected = {"feature_map": feature_map}
        if options.get("global_pool") != "":
            expected["features"] = model.forward_head(feature_map, pre_logits=True)
        if model.num_classes:
            expected["logits"] = model.forward_head(feature_map)
    assert got.keys() == expected.keys()
    for output, reference in expected.items():
        assert got[output].shape == reference.shape
        # A value within rounding of a threshold flips its sign in any engine, so one image may be off, but not most.
        assert errors(got[output], reference).median() < (2e-3 if output == "logits" else 1e-4), output


def test_a_shift_that_is_lost_in_one_place_shows(digits):
    """The tolerance above is tight enough: a single parameter of a single block moves the features beyond it."""
    images = F.interpolate(digits[0][:4].float() / 255 - 0.5, (64, 64))
    model = lively()
    before = outputs_of(model, images)["features"]
    model.stages[1][0].act1.shift2.bias.data[3] += 0.5
    assert errors(outputs_of(model, images)["features"], before).median() > 1e-3
