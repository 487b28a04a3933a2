"""Folding; that the arrays are the network is what the engines' tests show."""

import pytest
import timm
import torch
from torch import nn

from burn_timm.deploy.fold import fold
from burn_timm.errors import BurnError
from deploy.networks import lively


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
