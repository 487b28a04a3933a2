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
from deploy.networks import INPUTS, NETWORKS, check_outputs, convolutions, errors, images_of, lively, sizes_with


def run(inputs, nodes, *arrays):
    compiled = core().compile_model(ov.Model(nodes, inputs, "test"), "CPU", cpu_settings(1))
    return list(compiled(list(arrays)).values())


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("inputs", INPUTS)
def test_a_binary_convolution_is_exact(inputs, kernel, stride):
    check_exact(sizes_with(inputs, stride), kernel, seed=1000 * inputs + 10 * kernel + stride)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_binary_convolution_is_exact_in_images_of_every_width(kernel):
    """The kernels work in strips of several pixels, with other code at both ends."""
    widths = [*range(1, 41), 56, 75, 112]
    check_exact([(1, 16, 24, (4, width), stride) for width in widths for stride in (1, 2)], kernel, seed=0)


def check_exact(cases, kernel, seed):
    images, nodes, arrays, expected, buffers = [], [], [], [], []
    for case in convolutions(cases, kernel, seed):
        image = ops.parameter(list(case.x.shape), np.float32)
        node = binary_convolution(image, case.threshold, case.positive, case.stride, kernel // 2, buffers)
        images.append(image)
        nodes.append(node)
        arrays.append(case.x)
        expected.append(case.expected)
    for got, reference in zip(run(images, nodes, *arrays), expected, strict=True):
        assert got.shape == reference.shape
        np.testing.assert_array_equal(got.astype(np.float64), reference)


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


@pytest.mark.parametrize(("name", "shape", "options"), NETWORKS)
def test_a_network_does_what_torch_does(name, shape, options, digits):
    model, images = lively(name, **options), images_of(digits, shape)
    check_outputs(outputs_of(model, images), model, images)


def test_a_shift_that_is_lost_in_one_place_shows(digits):
    """The tolerance above is tight enough: a single parameter of a single block moves the features beyond it."""
    images = F.interpolate(digits[0][:4].float() / 255 - 0.5, (64, 64))
    model = lively()
    before = outputs_of(model, images)["features"]
    model.stages[1][0].act1.shift2.bias.data[3] += 0.5
    assert errors(outputs_of(model, images)["features"], before).median() > 1e-3
