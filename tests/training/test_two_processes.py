"""Two processes of 16 images compute what one of 32 does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .runs import ROOT, SHORT, environment

WORKER = Path(__file__).with_name("two_process_worker.py")


def launch(processes: int, *command: str) -> None:
    """Run a script in several processes on the CPU, as `accelerate launch` does on several GPUs."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), *command,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]


def run(processes: int, method: str, output: Path) -> list[dict]:
    launch(processes, str(WORKER), method, str(32 // processes), str(output))
    record = torch.load(output, weights_only=True)
    assert [step["processes"] for step in record] == [processes] * 3
    return record


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


def test_train_burn_in_two_processes_is_one_run_and_repeats(tmp_path):
    options = [*SHORT, "--workers", "0", "--batch-size", "32", "--log-interval", "1", "--val-split", "none"]
    script = str(ROOT / "train_burn.py")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    launch(2, script, *options, "--max-steps", "4", "--output", str(whole))
    lines = [json.loads(line) for line in open(whole / "log.jsonl")]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert {line["total_batch_size"] for line in lines} == {64}
    launch(2, script, *options, "--max-steps", "4", "--checkpoint-steps", "2", "--output", str(parts))
    assert torch.load(parts / "checkpoint.pt", weights_only=True)["identity"]["processes"] == 2
    packed = "export/model.safetensors"
    assert (whole / packed).read_bytes() == (parts / packed).read_bytes()
