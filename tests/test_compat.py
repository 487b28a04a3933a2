"""Corners of other packages that we touch: each test says in its message what to do when an upgrade breaks it."""

import argparse
import pickle

import numpy as np
import pytest
import timm
import torch

from burn_timm import compat


def test_create_with_weights_is_strict_renames_and_forgets_the_weights():
    remedy = (
        "timm no longer takes a state dict from pretrained_cfg_overlay: create the model without weights, apply the "
        "filter function of its module, and call load_state_dict"
    )
    weights = timm.create_model("test_resnet", num_classes=5).state_dict()
    model = compat.create_with_weights("test_resnet", weights, 5)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items()), remedy
    assert model.pretrained_cfg["state_dict"] is None and model.num_classes == 5, remedy
    for classes, changes in ((5, {"conv1.0.strange": torch.ones(1)}), (0, {})):
        with pytest.raises(RuntimeError, match="Unexpected key"):
            compat.create_with_weights("test_resnet", {**weights, **changes}, classes)


class Settings(dict):
    """A mapping of a class that torch does not know."""


class Stranger:
    """An object of a class that torch does not know."""

    def __init__(self):
        self.value = 1


def test_load_pickle_puts_placeholders_for_foreign_classes(tmp_path):
    remedy = (
        "torch words its refusals otherwise: correct the two patterns in compat.py; they find the class that "
        "torch.load(weights_only=True) refused in the text of its UnpicklingError"
    )
    content = {
        "weights": torch.ones(2), "args": argparse.Namespace(lr=1), "best": np.float64(0.5), "array": np.ones(2),
        "settings": Settings(a=1), "other": Stranger(),
    }
    torch.save(content, tmp_path / "file.pth")
    try:
        read = compat.load_pickle(tmp_path / "file.pth")
    except pickle.UnpicklingError as error:
        pytest.fail(f"{remedy}\n{error}")
    assert torch.equal(read["weights"], content["weights"]) and read["args"].lr == 1
    assert not isinstance(read["other"], Stranger) and not isinstance(read["best"], float), remedy
