"""The clock of a run, on clocks that the test moves."""

import time

import pytest

from burn_timm.training.clock import Clock


@pytest.fixture
def now(monkeypatch):
    times = {"wall": 100.0, "cpu": 7.0}  # of a process that has done something before
    monkeypatch.setattr(time, "perf_counter", lambda: times["wall"])
    monkeypatch.setattr(time, "process_time", lambda: times["cpu"])

    def move(wall, cpu):
        times["wall"] += wall
        times["cpu"] += cpu
    return move


def test_pauses_and_what_came_before_the_run_do_not_count(now):
    clock = Clock()
    now(10, 4)
    with clock.paused():
        now(50, 30)
    now(1, 0.5)
    assert clock.read() == {"train_seconds": 11.0, "cpu_seconds": 4.5}


def test_a_resumed_run_adds_what_the_checkpoint_kept(now):
    first = Clock()
    now(10, 4)
    second = Clock(first.read())
    now(2, 1)
    assert second.read() == {"train_seconds": 12.0, "cpu_seconds": 5.0}
