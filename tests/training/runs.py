"""Short real runs of train_burn.py for the tests: scanned digits, test_reactnet, a random test_resnet as teacher."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import burn_timm.runs
import train_burn
from burn_timm.methods import METHODS

ROOT = Path(__file__).parents[2]
DIGITS = [
    "--model", "test_reactnet", "--dataset", "digits", "--img-size", "32", "--hflip", "0", "--view", "light",
    "--batch-size", "64", "--threads", "1", "--log-with", "none",
]
TEACHER = ["--teacher", "test_resnet", "--no-teacher-pretrained", "--teacher-img-size", "32"]
SHORT = [*DIGITS, *TEACHER, "--head-dim", "32"]


def options_of(method: str) -> list[str]:
    """Of a short run by a method."""
    return [*DIGITS, "--method", method, *(TEACHER if METHODS[method].teacher_output else [])]


def on_the_cpu_without_pictures(monkeypatch) -> None:
    """For runs in this process: drawing the curves takes half of the time of a short one."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(burn_timm.runs, "draw_curves", lambda log, picture, *panels: picture.touch())


def here(*options: str) -> dict:
    """A run in this process, whose start is the longest part of a short one."""
    return train_burn.main(["--workers", "0", *options])


def failure(capsys, *options: str) -> str:
    """The one line that a run ends with."""
    with pytest.raises(SystemExit) as ended:
        here(*options)
    assert ended.value.code == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("train_burn.py: "))
    return line


def train(*options: str, workers: int = 0) -> subprocess.CompletedProcess:
    """A run of BURN in a process of its own, to its end."""
    return subprocess.run(command(*options, workers=workers), capture_output=True, text=True, env=environment())


def command(*options: str, workers: int = 0) -> list[str]:
    return [sys.executable, str(ROOT / "train_burn.py"), *SHORT, "--workers", str(workers), *options]


def environment() -> dict[str, str]:
    return {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}


def checkpoint(output: Path) -> dict:
    """Content of the checkpoint of a run, and its identity."""
    saved = torch.load(output / "checkpoint.pt", weights_only=True)
    return {**saved["content"], "identity": saved["identity"]}


def log(output: Path, name: str | None = None) -> list:
    """Lines of the log of a run, or one entry of each."""
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return lines if name is None else [line[name] for line in lines]
