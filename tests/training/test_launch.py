"""What `accelerate launch` and `torchrun` ask for is done, or refused in one line; threads and trackers."""

import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType

from burn_timm.errors import BurnError
from burn_timm.training import processes
from burn_timm.training.options import parse_options

from .runs import ONE_STEP, ROOT, SHORT, environment, here, log, words_of

TWO_STEPS = f"{SHORT} --val-split none --log-interval 1 --max-steps 2 --batch-size 32"


def plain_environment() -> dict[str, str]:
    """Of a user with a CPU, who has never heard of ACCELERATE_USE_CPU."""
    env = {**environment(), "CUDA_VISIBLE_DEVICES": ""}
    del env["ACCELERATE_USE_CPU"]
    return env


def test_gradient_accumulation_of_the_launcher_is_the_default(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "3")
    monkeypatch.setenv("ACCELERATE_GRADIENT_CLIPPING", "0.5")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("grad-accum-steps: 2\n")
    options = parse_options(words_of(SHORT, "--recipe", recipe))
    assert (options.grad_accum_steps, options.clip_grad) == (3, 0.5)
    assert parse_options(words_of(SHORT, "--grad-accum-steps 4")).grad_accum_steps == 4


def test_gradients_are_divided_once(monkeypatch, tmp_path):
    """accelerate divides by its variable, too."""
    here(TWO_STEPS, "--stages w1a1 --grad-accum-steps 2 --output", tmp_path / "option")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    here(TWO_STEPS, "--stages w1a1 --output", tmp_path / "variable")
    for name in ("total_batch_size", "loss", "grad_norm_student"):
        assert log(tmp_path / "option", name) == log(tmp_path / "variable", name)


def test_the_launchers_several_processes_on_a_cpu_are_one(monkeypatch, caplog):
    """`accelerate launch --cpu --num_processes 2` leaves these variables."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    processes.join_processes()
    assert not caplog.messages
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    processes.join_processes()
    assert "torchrun --nproc_per_node 2 train_burn.py" in caplog.text


@pytest.mark.slow  # CI has another run by accelerate launch
def test_accelerate_launch_on_a_cpu(tmp_path):
    """Its accumulation reaches the run, though it is meant for DeepSpeed; of its two processes it starts one."""
    words = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    words += ["--gradient_accumulation_steps", "3", str(ROOT / "train_burn.py"), *words_of(TWO_STEPS)]
    done = subprocess.run(
        [*words, "--output", str(tmp_path / "run")], capture_output=True, text=True, env=plain_environment(),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "torchrun --nproc_per_node 2 train_burn.py" in done.stderr
    assert set(log(tmp_path / "run", "total_batch_size")) == {96}


@pytest.mark.parametrize(("setting", "value", "message"), [
    ("USE_FSDP", "true", "asks for FSDP"),
    ("USE_DEEPSPEED", "true", "asks for DeepSpeed"),
    ("USE_MEGATRON_LM", "true", "asks for Megatron-LM"),
    ("USE_PARALLELISM_CONFIG", "true", "asks for a parallelism configuration"),
    ("IN_TPU_POD", "1", "asks for TPUs"),
    ("SAGEMAKER_DISTRIBUTED_TYPE", "DATA_PARALLEL", "asks for SageMaker"),
    ("MIXED_PRECISION", "fp8", "asks for fp8"),
    ("DYNAMO_BACKEND", "INDUCTOR", "leave --dynamo_backend out"),
])
def test_what_a_run_cannot_do_is_refused(setting, value, message, monkeypatch, refused):
    monkeypatch.setenv(f"ACCELERATE_{setting}", value)
    assert message in refused(TWO_STEPS)


def test_a_bad_option_of_the_launcher_is_named_as_its_own(monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "0")
    with pytest.raises(SystemExit, match="2"):
        parse_options(words_of(SHORT))
    assert "accelerate launch: error: argument --grad-accum-steps: " in capsys.readouterr().err


def test_fp16_on_a_cpu_is_refused(monkeypatch, tmp_path):
    fake = SimpleNamespace(mixed_precision="fp16", device=torch.device("cpu"), log_with=[])
    monkeypatch.setattr(processes, "Accelerator", lambda **options: fake)
    with pytest.raises(BurnError, match="fp16, which a CPU has not"):
        processes.make_accelerator("none", tmp_path)


@pytest.mark.parametrize(("kind", "world_size", "message"), [
    (DistributedType.XLA, "1", "asks for TPUs"),
    (DistributedType.NO, "2", "WORLD_SIZE is 2, but accelerate .* ACCELERATE_USE_CPU=true"),
])
def test_processes_that_would_not_train_together_are_refused(kind, world_size, message, monkeypatch):
    state = SimpleNamespace(num_processes=1, distributed_type=kind)
    monkeypatch.setattr(processes, "PartialState", lambda **options: state)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", world_size)
    with pytest.raises(BurnError, match=message):
        processes.join_processes()


def test_threads_are_the_cores_divided_by_local_processes(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert processes.default_threads() == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert processes.default_threads() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    torch.set_num_threads(2)
    summary = here(ONE_STEP.replace("--threads 1", ""), "--batch-size 8 --output", tmp_path)
    assert torch.get_num_threads() == summary["hardware"]["threads"] == 1


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_tracker_that_is_not_installed_is_an_error(tmp_path):
    with pytest.raises(BurnError, match="--log-with wandb: its package is not installed; pip install wandb"):
        processes.make_accelerator("wandb", tmp_path)


def test_tensorboard_gets_the_losses(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    here(ONE_STEP, "--max-steps 3 --log-with tensorboard --log-interval 1 --output", tmp_path)
    events = [path for path in tmp_path.rglob("events.out.tfevents.*") if b"loss_kl" in path.read_bytes()]
    assert len(events) == 1
    recorded = EventAccumulator(str(events[0])).Reload()
    assert {"loss", "loss_fs", "lambda", "grad_norm_target_head"} <= set(recorded.Tags()["scalars"])
    assert [event.step for event in recorded.Scalars("loss")] == [1, 2, 3]
