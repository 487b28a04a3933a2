"""Layers against slow restatements of their equations: one loop per element, float64."""

import itertools
import math

import pytest
import torch
import torch.nn as nn

from burn_timm.nn import BinaryConv2d, RPReLU, RSign, Shift, binary_sign, binary_weight_names
from burn_timm.nn.binary import WEIGHT_GRADS, binary_weight
from burn_timm.packing import PackedError, pack_weight

# Where the gradients have corners, and both zeros.
CORNERS = torch.tensor([0.0, -0.0, 1.0, -1.0, 1e-30, -1e-30, 0.5, -0.5, 1.0000001, -1.0000001, 3.0, -3.0])
GRADIENTS = {
    "approx": lambda x: 2 - 2 * abs(x) if abs(x) <= 1 else 0.0,  # of Bi-Real Net's polynomial, Eq. 3
    "clip": lambda x: 1.0 if abs(x) <= 1 else 0.0,
}
eager_and_scripted = pytest.mark.parametrize("scripted", [False, True], ids=["eager", "scripted"])


@pytest.fixture
def points():
    return torch.cat([CORNERS, torch.randn(500).double()])


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
@eager_and_scripted
@pytest.mark.parametrize("grad", GRADIENTS)
def test_sign_and_its_gradient(grad, scripted, points):
    function = torch.jit.script(binary_sign) if scripted else binary_sign
    x = points.clone().requires_grad_()
    y = function(x, grad)
    assert y.tolist() == [1.0 if value >= 0 else -1.0 for value in points.tolist()]
    weights = torch.randn_like(points)
    (y * weights).sum().backward()
    expected = torch.tensor([w * GRADIENTS[grad](v) for v, w in zip(points.tolist(), weights.tolist(), strict=True)])
    torch.testing.assert_close(x.grad, expected.double())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
@eager_and_scripted
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dtypes_are_kept(dtype, scripted):
    sign, weight = (torch.jit.script(f) if scripted else f for f in (binary_sign, binary_weight))
    x = torch.randn(3, 4, 2, 2, dtype=dtype, requires_grad=True)
    y, w = sign(x), weight(x)
    (y.sum() + w.sum()).backward()
    assert y.dtype == w.dtype == x.grad.dtype == dtype


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
@eager_and_scripted
@pytest.mark.parametrize("grad", WEIGHT_GRADS)
def test_binary_weight_is_mean_times_sign_and_passes_the_gradient_within_one_or_everywhere(scripted, grad):
    function = torch.jit.script(binary_weight) if scripted else binary_weight
    latent = torch.randn(5, 3, 2, 2).double()
    latent[0, 0] = torch.tensor([[0.0, -0.0], [1.0, -1.0]])
    latent[1, 0, 0] = torch.tensor([1.0000001, -1.0000001])
    weight = latent.clone().requires_grad_()
    binary = function(weight, None, grad)
    direction = torch.randn_like(latent)
    (binary * direction).sum().backward()
    for o, row in enumerate(latent.flatten(1).tolist()):
        scale = math.fsum(abs(v) for v in row) / len(row)
        expected = torch.tensor([scale if v >= 0 else -scale for v in row], dtype=torch.float64)
        torch.testing.assert_close(binary[o].flatten().detach(), expected, rtol=1e-12, atol=0)
    # The scale depends on every weight of its row, yet gives no gradient.
    expected = direction if grad == "pass" else torch.where(latent.abs() <= 1, direction, 0.0)
    torch.testing.assert_close(weight.grad, expected)


@pytest.mark.parametrize("size", [5, 6])
@pytest.mark.parametrize("kernel_size,stride,padding", [(3, 1, 1), (3, 2, 1), (1, 1, 0)])
def test_convolution_against_loops(kernel_size, stride, padding, size):
    conv = BinaryConv2d(3, 4, kernel_size, stride, padding, dtype=torch.float64)
    x = binary_sign(torch.randn(2, 3, size, size + 1).double())
    y = conv(x)
    for b, o, i, j in itertools.product(*map(range, y.shape)):
        total, scale = 0.0, conv.weight[o].abs().sum().item() / (3 * kernel_size**2)
        for c, u, v in itertools.product(range(3), range(kernel_size), range(kernel_size)):
            row, column = i * stride + u - padding, j * stride + v - padding
            if 0 <= row < size and 0 <= column < size + 1:  # a padded tap contributes 0
                total += x[b, c, row, column].item() * (1 if conv.weight[o, c, u, v] >= 0 else -1)
        assert y[b, o, i, j].item() == pytest.approx(scale * total, abs=1e-12)


def test_convolution_gradients_are_the_plain_convolutions_with_the_binary_weight():
    conv = BinaryConv2d(3, 4, 3, 2, 1, dtype=torch.float64)
    with torch.no_grad():
        conv.weight.mul_(6)  # some beyond 1, where the gradient stops
    assert 0 < (conv.weight.abs() > 1).sum() < conv.weight.numel()
    x = torch.randn(2, 3, 7, 7).double().requires_grad_()
    y = conv(x)
    direction = torch.randn_like(y)
    (y * direction).sum().backward()

    signs = torch.where(conv.weight >= 0, 1.0, -1.0).double()
    plain = (conv.weight.detach().abs().mean((1, 2, 3), keepdim=True) * signs).requires_grad_()
    x2 = x.detach().clone().requires_grad_()
    (nn.functional.conv2d(x2, plain, None, 2, 1) * direction).sum().backward()
    torch.testing.assert_close(x.grad, x2.grad)
    torch.testing.assert_close(conv.weight.grad, torch.where(conv.weight.abs() <= 1, plain.grad, 0.0))


@pytest.mark.parametrize("grad", GRADIENTS)
def test_rsign(grad):
    layer = RSign(3, act_grad=grad, dtype=torch.float64)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([0.25, -0.5, 0.0]))
    x = torch.randn(2, 3, 4, 5).double()
    x[0, :, 0, 0] = -layer.bias.detach()  # exactly at the threshold
    x.requires_grad_()
    y = layer(x)
    direction = torch.randn_like(y)
    (y * direction).sum().backward()
    for b, c, i, j in itertools.product(*map(range, x.shape)):
        shifted = x[b, c, i, j].item() + layer.bias[c].item()
        assert y[b, c, i, j].item() == (1 if shifted >= 0 else -1)
        expected = direction[b, c, i, j].item() * GRADIENTS[grad](shifted)
        assert x.grad[b, c, i, j].item() == pytest.approx(expected, abs=1e-12)
    torch.testing.assert_close(layer.bias.grad, x.grad.sum((0, 2, 3)))


def test_rprelu():
    layer = RPReLU(3, dtype=torch.float64)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 3, 4, 5).double()
    y = layer(x)
    for b, c, i, j in itertools.product(*map(range, x.shape)):
        shifted = x[b, c, i, j].item() + layer.shift1.bias[c].item()
        expected = shifted if shifted > 0 else layer.prelu.weight[c].item() * shifted
        assert y[b, c, i, j].item() == pytest.approx(expected + layer.shift2.bias[c].item(), abs=1e-12)


def test_latent_weights_start_symmetric_around_zero():
    weight = BinaryConv2d(64, 128, 3).weight.detach()
    deviation = weight.numel() ** -0.5  # of the mean sign of independent signs
    assert abs(weight.sign().mean()) < 4 * deviation
    assert abs(weight.mean()) < 4 * deviation * weight.std()
    assert abs(weight.abs().max() / -weight.min() - 1) < 0.01
    assert weight.abs().max() <= 1  # none starts where its gradient is 0


def test_a_packed_weight_loads_through_the_layer():
    trained, fresh = BinaryConv2d(3, 4, 3, padding=1), BinaryConv2d(3, 4, 3, padding=1)
    bits, scale = pack_weight(trained.weight)
    packed = {"weight_bits": bits, "weight_scale": scale}
    fresh.load_state_dict(packed)
    x = binary_sign(torch.randn(2, 3, 5, 5))
    assert torch.equal(fresh(x), trained(x))
    assert set(packed) == {"weight_bits", "weight_scale"}  # the caller's dict is as it was
    with pytest.raises(PackedError, match="weight_scale is missing"):
        fresh.load_state_dict({"weight_bits": bits})


def test_32_bits_are_plain_layers_and_new_shifts_change_nothing():
    conv, layer = BinaryConv2d(3, 4, 3, 2, 1, weight_bits=32), RSign(3, act_bits=32)
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 9, 9)
    assert torch.equal(conv(x), nn.functional.conv2d(x, conv.weight, None, 2, 1))
    assert torch.equal(layer(x), x + layer.bias[None, :, None, None])
    assert torch.equal(Shift(3)(x), x) and torch.equal(RPReLU(3)(x), torch.where(x > 0, x, x * 0.25))
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Sequential(BinaryConv2d(3, 3, 3)), BinaryConv2d(3, 3, 3))
    assert binary_weight_names(model) == ["1.0.weight", "2.weight"]
