"""Clock and checkpoint of a run."""

import time

import pytest
import torch

from burn_timm.errors import BurnError
from burn_timm.training.clock import Clock
from burn_timm.training.state import load_checkpoint


def test_a_checkpoint_of_an_earlier_release_is_refused_with_its_version(tmp_path):
    torch.save({"version": 2, "stage": 0, "step": 4, "method": {}, "identity": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(BurnError, match=r"checkpoint.pt: checkpoint version 2, this is version 3; go on with"):
        load_checkpoint(tmp_path / "checkpoint.pt", {})


def test_pauses_and_what_came_before_the_run_do_not_count_and_a_resumed_run_adds_up(monkeypatch):
    now = {"wall": 100.0, "cpu": 7.0}  # of a process that has done something before
    monkeypatch.setattr(time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(time, "process_time", lambda: now["cpu"])

    def move(wall: float, cpu: float) -> None:
        now.update(wall=now["wall"] + wall, cpu=now["cpu"] + cpu)

    first = Clock()
    move(10, 4)
    with first.paused():
        move(50, 30)
    move(1, 0.5)
    assert first.read() == {"train_seconds": 11.0, "cpu_seconds": 4.5}
    second = Clock(first.read())
    move(2, 1)
    assert second.read() == {"train_seconds": 13.0, "cpu_seconds": 5.5}
