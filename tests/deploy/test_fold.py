"""Folding; that the arrays are the network is what the engines' tests show."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from burn_timm.deploy.fold import fold, half_precision
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


def test_a_model_in_bfloat16_folds_as_its_numbers_do_in_float32():
    model = lively().bfloat16()
    half, whole = fold(model), fold(model.float())
    np.testing.assert_array_equal(half.stem_weight, whole.stem_weight)
    np.testing.assert_array_equal(half.steps[1].threshold, whole.steps[1].threshold)
    np.testing.assert_allclose(half.steps[1].scale, whole.steps[1].scale, rtol=2**-7)


def test_a_classifier_is_in_float16_where_that_rounds_only():
    weight = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    assert half_precision(weight).dtype == half_precision(weight * 1e-3).dtype == np.float16
    for row, factor in ((0, 1e-8), (1, 1e5)):  # as float16 it would be zeros, or infinite
        other = weight.copy()
        other[row] *= factor
        assert half_precision(other) is other
