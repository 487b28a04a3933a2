"""The networks against an independent restatement of the paper, and their sizes against its figures."""

import functools

import pytest
import timm
import torch

from .oracle import randomise, reactnet_18, reactnet_a

NARROW = {"stem_chs": 16, "channels": (16, 32, 64, 128)}
PLAN = [(0, 0, 1), (1, 0, 2), (2, 0, 2), (2, 1, 1), (3, 0, 2)]  # of test_reactnet


NETWORKS = [
    ("reactnet_a_025", (65, 97), {}, reactnet_a), ("reactnet_18", (64, 96), NARROW, reactnet_18),
    ("reactnet_18", (65, 97), NARROW, reactnet_18),
    ("test_reactnet", (33, 64), {}, functools.partial(reactnet_a, plan=PLAN)),
]
CASES = [(*network, *bits) for network in NETWORKS for bits in [(32, 32), (32, 1), (1, 1)]]


@pytest.mark.parametrize("name,size,kwargs,oracle,weight_bits,act_bits", [
    ("reactnet_a", (32, 64), {}, reactnet_a, 1, 1), *CASES,
])
def test_the_network_is_the_papers(name, size, kwargs, oracle, weight_bits, act_bits, digits):
    model = timm.create_model(
        name, dtype=torch.float64, num_classes=11, weight_bits=weight_bits, act_bits=act_bits, **kwargs).eval()
    randomise(model)
    images = torch.nn.functional.interpolate(digits[0][:2].double() / 255 - 0.5, size, mode="bilinear")
    with torch.no_grad():
        expected = oracle(images, model.state_dict(), weight_bits, act_bits)
        torch.testing.assert_close(model(images), expected)
    assert expected.std() > 1e-3


def test_parameters_of_the_paper():
    for classes, millions in ((0, 28.3), (1000, 29.3)):
        model = timm.create_model("reactnet_a", num_classes=classes, device="meta")
        assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions
