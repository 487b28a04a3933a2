"""Every method, two epochs a stage on scanned digits, from the command line to a packed export that loads."""

import json

import pytest
import timm
from safetensors.torch import load_file

from burn_timm.methods import METHODS
from burn_timm.packing import is_packed

from .runs import train


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_epochs_end_in_a_packed_export_that_loads(method, tmp_path):
    output = tmp_path / "run"
    options = ["--method", method, "--epochs", "2", "--lr", "2e-3", "--output", str(output)]
    if not METHODS[method].teacher_output:
        options += ["--teacher", ""]
    if "queue_size" in METHODS[method].options:
        options += ["--queue-size", "256"]
    done = train(*options)
    assert done.returncode == 0, done.stderr[-2000:]
    assert is_packed(load_file(output / "export" / "model.safetensors"))
    model = timm.create_model(f"local-dir:{output / 'export'}", pretrained=True)
    assert model.num_classes == {"supervised": 10, "supervised_kl": 96}.get(method, 0)
    summary = json.loads((output / "summary.json").read_text())
    assert summary["stages"] == ["w32a1", "w1a1"] and 0 < summary["knn_student"] <= 1
    losses = [json.loads(line)["loss"] for line in open(output / "log.jsonl")]
    assert len(losses) == 2 * 5  # of either stage's 44 steps every tenth, and the last
