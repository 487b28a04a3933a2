"""Every method from the command line to an export of a floating-point network; binary ones: test_recipes.py."""

import pytest
import timm
import torch
from methods.cases import NAMES, OPTIONS
from safetensors.torch import load_file

from burn_timm.data.loader import seed_for
from burn_timm.packing import is_packed

from .runs import here, options_of

CLASSES = {"supervised": 10, "supervised_kl": 96}


def flags(case: str) -> str:
    """The case on the command line, but for what the script finds out by itself."""
    given = {name: value for name, value in OPTIONS[case].items() if name not in ("num_classes", "epochs")}
    return " ".join([options_of(NAMES.get(case, case)), *(
        f"--{name.replace('_', '-')} {'' if value is True else value}" for name, value in given.items()
    )])


@pytest.mark.parametrize("case", OPTIONS)
def test_a_floating_point_network_trains_and_its_export_loads(case, tmp_path):
    summary = here(
        flags(case), "--model test_resnet --stages fp --max-steps 2 --batch-size 16 --val-split none",
        "--output", tmp_path,
    )
    assert summary["stages"] == ["fp"] and summary["method"] == NAMES.get(case, case)
    weights = load_file(tmp_path / "export" / "model.safetensors")
    assert not is_packed(weights)
    model = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval()
    assert model.num_classes == CLASSES.get(case, 0)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    torch.manual_seed(seed_for(42, 0))  # two steps: the last BatchNorm of a residual branch starts at zero
    start = timm.create_model("test_resnet", num_classes=0).state_dict()
    assert [name for name, tensor in start.items() if torch.equal(tensor, weights[name])] == []
