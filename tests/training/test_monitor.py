"""What stops a run or warns of it (loss and gradient that are not finite, a collapsed target), and its clock."""

import json
import logging
import time

import pytest
import torch

from burn_timm import runs
from burn_timm.errors import BurnError
from burn_timm.training.logs import Clock, draw_curves
from burn_timm.training.monitor import AsyncScalars, CollapseMonitor, check_finite


@pytest.mark.parametrize(("values", "told"), [
    ({"loss": float("nan"), "loss_kl": float("inf"), "loss_fs": 0.5}, "loss_kl inf, loss_fs 0.5"),
    ({"loss": 1.0, "grad_norm": float("inf")}, "grad_norm inf"),
])
def test_numbers_that_are_not_finite_name_step_terms_and_checkpoint(values, told):
    check_finite({"loss": 1.0, "loss_kl": float("nan"), "grad_norm": 3.0}, 17, "")  # the first of no weight in the loss
    with pytest.raises(BurnError, match=f"step 17: .*{told}.*good checkpoint: run/checkpoint.pt"):
        check_finite(values, 17, "run/checkpoint.pt")


@pytest.mark.parametrize(("series", "lam", "message"), [
    ([1.0, 0.8, 0.3, 0.02, 0.01, 0.3, 0.001], 0.9, "step 3: the target has decayed to a constant: it tells 0.0200"),
    ([0.001, 0.03, 0.4, 0.8, 1.2, 1.3, 1.2, 1.2, 1.1], 0.9, None),  # a target may start low and rise
    ([0.0331, 0.0331, 0.03, 0.02], 0.9, None),  # it never was higher, and two steps are no time to rise
    ([0.03] * 200, 0.9, "step 100: the target is a constant and never was anything else"),
    ([0.0] * 200, 1.0, None),  # nobody follows it: the KL has no weight
])
def test_a_collapsed_target_is_warned_of_once(series, lam, message, caplog):
    monitor = CollapseMonitor()
    monitor.update({"step": 1000, "loss": 1.0}, 0.5)  # of a method without a target
    with caplog.at_level(logging.WARNING):
        for step, information in enumerate(series):
            line = {"step": step, "target_information": information, "lambda": lam}
            monitor.update(line, step / len(series))
    assert len(caplog.messages) == (message is not None)
    assert message is None or caplog.messages[0].startswith(message)


def test_a_resumed_run_knows_what_the_target_was(caplog):
    monitor = CollapseMonitor([{"step": 90, "target_information": 1.2}, {"step": 100}])
    monitor.update({"step": 110, "target_information": 0.01, "lambda": 0.9}, 0.2)
    assert "has decayed to a constant: it tells 0.0100 nats about the image (best so far 1.2000)" in caplog.text


@pytest.mark.parametrize(("lam", "norm", "shown"), [(1.0, 0.0, False), (0.9, 0.0, True), (1.0, 0.3, True)])
def test_curves_leave_out_what_heads_say_that_nothing_trains(lam, norm, shown, tmp_path, monkeypatch):
    line = {"step": 1, "stage": "w1a1", "loss": 2.0, "lambda": lam, "grad_norm_target_head": norm}
    (tmp_path / "log.jsonl").write_text(f"{json.dumps(line)}\n")
    drawn = []
    monkeypatch.setattr(runs, "draw_curves", lambda log, picture, panels, title: drawn.extend(panels))
    draw_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    names = {name for _, words in drawn for name in words}
    assert ("target_information" in names) == ("loss_kl" in names) == shown and {"loss", "lr", "knn"} <= names


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


def test_scalars_keep_their_order_and_their_lag():
    used = []
    scalars = AsyncScalars(lag=2)
    for number in range(4):
        scalars.add(torch.tensor([number, 0.5]), used.append)
    assert used == [[0.0, 0.5], [1.0, 0.5]]
    scalars.flush()
    assert [numbers[0] for numbers in used] == [0, 1, 2, 3]
    at_once = AsyncScalars(lag=0)
    with pytest.raises(BurnError, match="not finite"):
        at_once.add(torch.tensor(float("nan")), lambda number: (_ for _ in ()).throw(BurnError("not finite")))
