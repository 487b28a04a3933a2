"""Every method from the command line to an export that loads: binary networks (slow), floating-point ones."""

import json

import pytest
import timm
import torch
from methods.cases import NAMES, OPTIONS
from safetensors.torch import load_file

import train_burn
from burn_timm.methods import METHODS
from burn_timm.packing import is_packed

from .runs import SHORT, train


def flags(case: str) -> list[str]:
    """The case on the command line, but for what the script finds out by itself."""
    given = {name: value for name, value in OPTIONS[case].items() if name not in ("num_classes", "epochs")}
    method = NAMES.get(case, case)
    words = [
        word for name, value in given.items()
        for word in (f"--{name.replace('_', '-')}", *([] if value is True else [str(value)]))
    ]
    return ["--method", method, *words, *([] if METHODS[method].teacher_output else ["--teacher", ""])]


@pytest.mark.slow
@pytest.mark.parametrize("case", OPTIONS)
def test_two_epochs_end_in_a_packed_export_that_loads(case, tmp_path):
    output = tmp_path / "run"
    options = [*flags(case), "--epochs", "2", "--lr", "2e-3", "--output", str(output)]
    if "queue_size" in OPTIONS[case]:
        options += ["--queue-size", "256"]
    done = train(*options)
    assert done.returncode == 0, done.stderr[-2000:]
    assert is_packed(load_file(output / "export" / "model.safetensors"))
    model = timm.create_model(f"local-dir:{output / 'export'}", pretrained=True)
    assert model.num_classes == {"supervised": 10, "supervised_kl": 96}.get(case, 0)
    summary = json.loads((output / "summary.json").read_text())
    assert summary["stages"] == ["w32a1", "w1a1"] and 0 < summary["knn_student"] <= 1
    losses = [json.loads(line)["loss"] for line in open(output / "log.jsonl")]
    assert len(losses) == 2 * 5  # of either stage's 44 steps every tenth, and the last


@pytest.mark.parametrize("case", OPTIONS)
def test_a_floating_point_network_trains_and_its_export_loads(case, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    output = tmp_path / "run"
    summary = train_burn.main([
        *SHORT, *flags(case), "--workers", "0", "--model", "test_resnet", "--stages", "fp", "--max-steps", "2",
        "--batch-size", "16", "--val-split", "none", "--log-interval", "1", "--output", str(output),
    ])
    assert summary["stages"] == ["fp"] and summary["method"] == NAMES.get(case, case)
    weights = load_file(output / "export" / "model.safetensors")
    assert not is_packed(weights)
    model = timm.create_model(f"local-dir:{output / 'export'}", pretrained=True).eval()
    assert model.num_classes == {"supervised": 10, "supervised_kl": 96}.get(case, 0)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    torch.manual_seed(train_burn.seed_for(42, 0))  # two steps: the last BatchNorm of a residual branch starts at zero
    start = timm.create_model("test_resnet", num_classes=0).state_dict()
    still = [name for name, tensor in start.items() if torch.equal(tensor, weights[name])]
    assert still == []
