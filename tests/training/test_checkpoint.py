"""Checkpoints that cannot be resumed from."""

import pytest
import torch

from burn_timm.errors import BurnError
from burn_timm.training.checkpoint import load_checkpoint


def test_another_version_is_told_by_its_number(tmp_path):
    """Version 1 had no `seconds`: it is whole, only older."""
    old = {"version": 1, "stage": 0, "step": 4, "method": {}, "optimizer": None, "scaler": None, "corrupt": {},
           "identity": {}}
    torch.save(old, tmp_path / "checkpoint.pt")
    with pytest.raises(BurnError, match="checkpoint version 1, this is version 2; go on with"):
        load_checkpoint(tmp_path / "checkpoint.pt", {})
