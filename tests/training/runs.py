"""Short real runs of train_burn.py for the tests: scanned digits, test_reactnet, a random test_resnet as teacher.

Options are given as on a command line: in one string, or as words.
"""

import json
import multiprocessing
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import burn_timm.runs
import train_burn
from burn_timm.methods import METHODS
from burn_timm.training import measure

ROOT = Path(__file__).parents[2]
DIGITS = (
    "--model test_reactnet --dataset digits --img-size 32 --hflip 0 --view light --batch-size 64 --threads 1 "
    "--workers 0 --log-with none --no-compile"  # even trying whether it works takes seconds
)
TEACHER = "--teacher test_resnet --no-teacher-pretrained --teacher-img-size 32"
SHORT = f"{DIGITS} {TEACHER} --head-dim 32"
FIGURE_IMAGES = (200, 100)  # training and validation images of a figure
ONE_STEP = f"{SHORT} --stages w1a1 --max-steps 1 --val-split none"


def options_of(method: str) -> str:
    """Of a short run by a method."""
    return f"{DIGITS} --method {method} {TEACHER if METHODS[method].teacher_output else ''}"


def words_of(*options: object) -> list[str]:
    return [word for part in options for word in shlex.split(str(part))]


def on_the_cpu_without_pictures(monkeypatch) -> None:
    """For runs in this process: curves and card, and figures of all digits, take longer than a short training. Runs in
    processes of their own have them."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(burn_timm.runs, "draw_curves", lambda log, picture, *panels, **words: picture.touch())
    monkeypatch.setattr(train_burn, "describe", lambda *args: None)
    monkeypatch.setattr(measure, "CALIBRATION_IMAGES", 128)
    for name in ("MOST_IMAGES", "SMALL_MOST_IMAGES"):
        monkeypatch.setattr(measure, name, FIGURE_IMAGES)


def here(*options: object) -> dict:
    """A run in this process: starting another one takes longer than a short run."""
    return train_burn.main(words_of(*options))


def failure(capsys, *options: object) -> str:
    """The one line that a run ends with."""
    with pytest.raises(SystemExit) as ended:
        here(*options)
    assert ended.value.code == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("train_burn.py: "))
    return line


def command(*options: object) -> list[str]:
    """Of a run in a process of its own, in `environment()`."""
    return [sys.executable, str(ROOT / "train_burn.py"), *words_of(*options)]


def environment() -> dict[str, str]:
    return {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}


def forked(call: Callable, *args: object, **environment: str) -> multiprocessing.Process:
    """A process that begins as a copy of this one: most of a process's time goes into its imports."""
    def run() -> None:
        os.environ.update(environment)
        AcceleratorState._reset_state(reset_partial_state=True)
        call(*args)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def checkpoint(output: Path) -> dict:
    """Content of the checkpoint of a run, and its identity."""
    saved = torch.load(output / "checkpoint.pt", weights_only=True)
    return {**saved["content"], "identity": saved["identity"]}


def log(output: Path, name: str | None = None) -> list:
    """Lines of the log of a run, or one entry of each."""
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return lines if name is None else [line[name] for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    """The same losses, real-valued weights and packed weights, bit for bit."""
    assert log(one, "loss") == log(other, "loss")
    weights = [load_file(output / "latent.safetensors") for output in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    assert [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])] == []
    packed = "export/model.safetensors"
    assert (one / packed).read_bytes() == (other / packed).read_bytes()
