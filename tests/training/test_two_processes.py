"""Two processes of 16 images compute what one of 32 does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("two_process_worker.py")


def run(processes: int, method: str, output: Path) -> list[dict]:
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(processes),
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        str(WORKER), method, str(32 // processes), str(output),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(output, weights_only=True)


@pytest.mark.parametrize("method", ["burn", "simclr"])
def test_losses_and_gradients_of_three_steps_agree(method, tmp_path):
    one, two = run(1, method, tmp_path / "one.pt"), run(2, method, tmp_path / "two.pt")
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        assert a["scalars"].keys() == b["scalars"].keys()
        for name in a["scalars"]:
            torch.testing.assert_close(a["scalars"][name], b["scalars"][name], atol=1e-8, rtol=0, msg=name)
        assert a["gradients"].keys() == b["gradients"].keys() and len(a["gradients"]) > 20
        for name in a["gradients"]:
            torch.testing.assert_close(a["gradients"][name], b["gradients"][name], atol=1e-8, rtol=0, msg=name)
