"""The folded arrays, run by the formula in fold.py's docstring in float64, against the network itself in float64."""


import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from burn_timm.deploy.fold import fold
from burn_timm.errors import BurnError
from deploy.networks import errors, lively


def column(array):
    return torch.from_numpy(array).double().view(1, -1, 1, 1)


def run(network, x):
    """Feature map `[B, D, H', W']`, float64."""
    size = network.stem_weight.shape[-1]
    x = F.conv2d(x, torch.from_numpy(network.stem_weight).double(), None, 2, size // 2) + column(network.stem_bias)
    if network.stem_pool:
        x = F.max_pool2d(x, 3, 2, 1)
    for step in network.steps:
        shortcut = x
        if step.pool:
            shortcut = F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
        if step.repeat:
            shortcut = torch.cat([shortcut, shortcut], 1)
        if step.project is not None:
            shortcut = torch.einsum("oi,bihw->bohw", torch.from_numpy(step.project).double(), shortcut)
        signs = torch.where(x >= column(step.threshold), 1.0, -1.0).double()
        weight = torch.where(torch.from_numpy(step.positive), 1.0, -1.0).double()
        count = F.conv2d(signs, weight, None, step.stride, step.padding)
        z = count * column(step.scale) + column(step.bias) + shortcut
        x = torch.where(z >= 0, z, z * column(step.slope))
    return x + column(network.shift)


@pytest.mark.parametrize(("name", "options"), [
    ("test_reactnet", {}), ("reactnet_a_025", {}),
    ("reactnet_18", {"depths": (1, 2, 1, 1), "channels": (16, 24, 40, 64)}),
])
def test_the_arrays_are_the_network(name, options):
    model = lively(name, **options)
    network = fold(model)
    x = torch.randn(6, 3, 45, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = model.double().forward_features(x)
    # The arrays are float32, so a value at a threshold may still flip: most images must agree, not all.
    assert errors(run(network, x), expected).median() < 1e-5
    assert network.classifier[0].shape == (10, model.num_features) and network.pool_type == "avg"


def test_a_threshold_is_exact_where_nothing_is_folded_into_it():
    """The first sign sees the stem alone: x + b >= 0 and x >= -b are the same question in floats."""
    model = lively()
    assert torch.equal(torch.from_numpy(fold(model).steps[0].threshold), -model.stages[0][0].sign1.bias.detach())


@pytest.mark.parametrize(("make", "message"), [
    (lambda: lively(weight_bits=32), "weight_bits=32, act_bits=1; only 1/1 runs in 1 bit"),
    (lambda: lively(weight_bits=32, act_bits=32), "weight_bits=32, act_bits=32; only 1/1 runs in 1 bit"),
    (lambda: lively(head_hidden_size=8), "hidden layer"),
    (lambda: nn.Linear(2, 2), "Linear has no binary convolutions to run in 1 bit"),
    (lambda: timm.create_model("test_resnet"), "ResNet has no binary convolutions"),
])
def test_what_has_no_1_bit_form_is_refused(make, message):
    with pytest.raises(BurnError, match=message):
        fold(make())
