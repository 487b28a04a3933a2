"""Short real runs of train_burn.py for the tests: scanned digits, test_reactnet, a random test_resnet as teacher."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHORT = [
    "--model", "test_reactnet", "--teacher", "test_resnet", "--no-teacher-pretrained", "--teacher-img-size", "32",
    "--dataset", "digits", "--img-size", "32", "--hflip", "0", "--view", "light", "--head-dim", "32",
    "--batch-size", "64", "--threads", "1", "--log-with", "none",
]


def train(*options: str, workers: int = 0) -> subprocess.CompletedProcess:
    """A run in a process of its own, to its end."""
    return subprocess.run(command(*options, workers=workers), capture_output=True, text=True, env=environment())


def command(*options: str, workers: int = 0) -> list[str]:
    return [sys.executable, str(ROOT / "train_burn.py"), *SHORT, "--workers", str(workers), *options]


def environment() -> dict[str, str]:
    return {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
