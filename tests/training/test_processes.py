"""What a run settles first: its processes, threads and tracker."""

import importlib.util
import os
from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType

from burn_timm.errors import BurnError
from burn_timm.training import processes

from .runs import SHORT, here


def test_processes_that_would_not_train_together_are_refused(monkeypatch):
    alone = SimpleNamespace(num_processes=1, distributed_type=DistributedType.NO)
    monkeypatch.setattr(processes, "PartialState", lambda **options: alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    with pytest.raises(BurnError, match="WORLD_SIZE is 2, but accelerate .* ACCELERATE_USE_CPU=true"):
        processes.join_processes()
    monkeypatch.setenv("WORLD_SIZE", "1")
    processes.join_processes()


def test_threads_are_the_cores_divided_by_local_processes(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert processes.default_threads() == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert processes.default_threads() == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    options = list(SHORT)
    del options[options.index("--threads") : options.index("--threads") + 2]
    options += ["--stages", "w1a1", "--max-steps", "1", "--val-split", "none", "--batch-size", "8"]
    for words, threads in ((), 2), (("--threads", "1"), 1):
        summary = here(*options, *words, "--output", str(tmp_path / str(threads)))
        assert torch.get_num_threads() == summary["hardware"]["threads"] == threads


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_tracker_that_is_not_installed_is_an_error(tmp_path):
    with pytest.raises(BurnError, match="--log-with wandb: its package is not installed; pip install wandb"):
        processes.make_accelerator("wandb", tmp_path)


def test_tensorboard_gets_the_losses(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = [*SHORT, "--log-with", "tensorboard", "--log-interval", "1", "--val-split", "none"]
    here(*options, "--stages", "w1a1", "--max-steps", "3", "--output", str(tmp_path / "run"))
    events = [path for path in (tmp_path / "run").rglob("events.out.tfevents.*") if b"loss_kl" in path.read_bytes()]
    assert len(events) == 1
    recorded = EventAccumulator(str(events[0])).Reload()
    assert {"loss", "loss_fs", "lambda", "grad_norm_target_head"} <= set(recorded.Tags()["scalars"])
    assert [event.step for event in recorded.Scalars("loss")] == [1, 2, 3]
