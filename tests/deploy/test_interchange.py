"""The network of standard layers does the same as the one that it was made from."""

import pytest
import torch
from torch import nn

from burn_timm.deploy.interchange import Sign, with_standard_layers
from burn_timm.nn import BinaryConv2d, RSign
from deploy.networks import errors, lively


@pytest.mark.parametrize("options", [
    {}, {"num_classes": 0}, {"weight_bits": 32}, {"weight_bits": 32, "act_bits": 32},
    {"name": "reactnet_18", "depths": (1, 2, 1, 1)},
])
def test_it_does_the_same(options):
    model = lively(**options)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(8, 3, 50, 64)
    plain = with_standard_layers(model)
    assert errors(plain(x), model(x).detach()).median() < 1e-4
    one_bit = options.get("act_bits", 1) == 1
    kinds = {type(module) for module in plain.modules()}
    assert not kinds & {BinaryConv2d, nn.BatchNorm2d} and (RSign in kinds) != one_bit
    assert not any(parameter.requires_grad for parameter in plain.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_sign_of_zero_is_plus_one():
    sign = Sign(torch.tensor([0.0, -0.0, 0.5]))
    x = torch.tensor([[0.0, -0.0, -0.5], [-1e-45, -0.0, -0.5000001]]).view(2, 3, 1, 1)
    assert sign(x).flatten().tolist() == [1, 1, 1, -1, 1, -1]
    assert sign(x.bfloat16()).dtype == torch.bfloat16
