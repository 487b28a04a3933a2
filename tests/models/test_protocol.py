"""A new binary backbone is one class: what offers `BinaryNetwork` is folded, exported and counted, whatever it is."""

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import ClassifierHead
from torch import nn

from burn_timm.counting import count
from burn_timm.deploy.fold import fold
from burn_timm.deploy.interchange import with_standard_layers
from burn_timm.errors import BurnError
from burn_timm.models import MODULES, BinaryUnit, is_binary
from burn_timm.nn import BinaryConv2d, RPReLU, RSign


class Stem(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.pool = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Identity()

    def forward(self, x):
        return self.pool(self.bn(self.conv(x)))


class Another(nn.Module):
    """Two units of other names, in no stages."""

    pretrained_cfg = {"architecture": "another", "input_size": (3, 32, 32)}
    weight_bits = act_bits = 1
    num_features, num_classes = 8, 4

    def __init__(self):
        super().__init__()
        self.stem, self.head = Stem(), ClassifierHead(8, 4)
        self.flat = nn.ModuleList(nn.ModuleList([RSign(8), BinaryConv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), RPReLU(8)])
                                  for _ in range(2))

    def binary_units(self):
        return (BinaryUnit(*layers) for layers in self.flat)

    def forward(self, x):
        x = self.stem(x)
        for sign, conv, norm, act in self.flat:
            x = act(norm(conv(sign(x))) + x)
        return self.head(x)


def test_another_network_is_folded_exported_and_counted():
    model, x = Another().eval(), torch.randn(2, 3, 32, 32)
    assert is_binary(model)
    folded = fold(model)
    assert len(folded.steps) == 2
    stem = F.conv2d(x, torch.from_numpy(folded.stem_weight), torch.from_numpy(folded.stem_bias), 2, 1)
    torch.testing.assert_close(stem, model.stem(x), rtol=1e-4, atol=1e-5)
    plain = with_standard_layers(model)
    torch.testing.assert_close(plain(x), model(x), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, (BinaryConv2d, nn.BatchNorm2d)) for module in plain.modules())
    costs = count(model)
    assert (costs["bops"], costs["flops"]) == (2 * 8 * 8 * 9 * 16**2, 3 * 8 * 9 * 16**2 + 8 * 4)
    assert costs["binary_params"] == 2 * 8 * 8 * 9 and costs["bytes_packed"] < costs["bytes_fp32"]


@pytest.mark.parametrize(("kernel", "other"), [
    (3, {"stride": 1}), (3, {"dilation": 2, "padding": 2}), (1, {"groups": 4}), (3, {"padding_mode": "reflect"}),
])
def test_a_stem_of_another_kind_is_exported_and_not_folded(kernel, other):
    model, x = Another().eval(), torch.randn(2, 4, 32, 32)
    model.stem.conv = nn.Conv2d(4, 8, kernel, **{"stride": 2, "padding": kernel // 2, **other})
    torch.testing.assert_close(with_standard_layers(model)(x), model(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(BurnError, match="the stem must be an ordinary square convolution of stride 2"):
        fold(model)


@pytest.mark.parametrize("name", timm.list_models(module=MODULES))
def test_every_binary_convolution_is_in_a_unit(name):
    model = timm.create_model(name, device="meta")
    convolutions = [module for module in model.modules() if isinstance(module, BinaryConv2d)]
    assert is_binary(model) == bool(convolutions)
    if convolutions:
        assert [unit.conv for unit in model.binary_units()] == convolutions
