"""The networks against an independent restatement of the paper, and their sizes against its figures."""

import pytest
import timm
import torch

from .oracle import randomise, reactnet_18, reactnet_a

STAGES = pytest.mark.parametrize("weight_bits,act_bits", [(32, 32), (32, 1), (1, 1)])


def _model(name, **kwargs):
    model = timm.create_model(name, dtype=torch.float64, num_classes=11, **kwargs).eval()
    randomise(model)
    return model


def _images(digits, size, count=2):
    """Real digits as float64, enlarged to `size`."""
    images = digits[0][:count].double() / 255 - 0.5
    return torch.nn.functional.interpolate(images, size, mode="bilinear")


@STAGES
@pytest.mark.parametrize("name,size", [
    ("reactnet_a", (64, 96)), ("reactnet_a_025", (64, 64)), ("reactnet_a_025", (65, 97)),
])
def test_reactnet_a(name, size, weight_bits, act_bits, digits):
    model = _model(name, weight_bits=weight_bits, act_bits=act_bits)
    images = _images(digits, size)
    with torch.no_grad():
        expected = reactnet_a(images, model.state_dict(), weight_bits, act_bits)
        torch.testing.assert_close(model(images), expected)
    assert expected.std() > 1e-3


@STAGES
@pytest.mark.parametrize("size", [(64, 96), (65, 97)])
def test_reactnet_18(size, weight_bits, act_bits, digits):
    narrow = {"stem_chs": 16, "channels": (16, 32, 64, 128)}
    model = _model("reactnet_18", weight_bits=weight_bits, act_bits=act_bits, **narrow)
    images = _images(digits, size)
    with torch.no_grad():
        expected = reactnet_18(images, model.state_dict(), weight_bits, act_bits)
        torch.testing.assert_close(model(images), expected)
    assert expected.std() > 1e-3


@STAGES
def test_test_reactnet(weight_bits, act_bits, digits):
    model = _model("test_reactnet", weight_bits=weight_bits, act_bits=act_bits)
    plan = [(0, 0, 1), (1, 0, 2), (2, 0, 2), (2, 1, 1), (3, 0, 2)]
    images = _images(digits, (33, 64), 4)
    with torch.no_grad():
        expected = reactnet_a(images, model.state_dict(), weight_bits, act_bits, plan)
        torch.testing.assert_close(model(images), expected)


def test_parameters_of_the_paper():
    for classes, millions in ((0, 28.3), (1000, 29.3)):
        model = timm.create_model("reactnet_a", num_classes=classes, device="meta")
        assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions
