"""What `accelerate launch` and `torchrun` ask for is done, or refused in one line."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType

from burn_timm.errors import BurnError
from burn_timm.training import processes
from burn_timm.training.options import parse_options

from .runs import ROOT, SHORT, failure, here, log
from .test_two_processes import EIGHT_STEPS, launch, plain_environment

OPTIONS = [*SHORT, "--workers", "0", "--val-split", "none", "--log-interval", "1", "--max-steps", "2"]
OPTIONS += ["--batch-size", "32"]


def test_gradient_accumulation_of_the_launcher_is_the_default(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "3")
    monkeypatch.setenv("ACCELERATE_GRADIENT_CLIPPING", "0.5")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("grad-accum-steps: 2\n")
    options = parse_options([*SHORT, "--recipe", str(recipe)])
    assert (options.grad_accum_steps, options.clip_grad) == (3, 0.5)
    assert parse_options([*SHORT, "--grad-accum-steps", "4"]).grad_accum_steps == 4


def test_gradients_are_divided_once(monkeypatch, tmp_path):
    """accelerate divides by its variable, too."""
    here(*OPTIONS, "--grad-accum-steps", "2", "--output", str(tmp_path / "option"))
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    here(*OPTIONS, "--output", str(tmp_path / "variable"))
    for name in ("total_batch_size", "loss", "grad_norm_student"):
        assert log(tmp_path / "option", name) == log(tmp_path / "variable", name)


def test_accelerate_launch_on_a_cpu(tmp_path):
    """Its accumulation reaches the run, though it is meant for DeepSpeed; of its two processes it starts one."""
    words = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    words += ["--gradient_accumulation_steps", "3", str(ROOT / "train_burn.py"), *OPTIONS]
    done = subprocess.run(
        [*words, "--output", str(tmp_path / "run")], capture_output=True, text=True, env=plain_environment(),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "one process: on a CPU, accelerate launch starts one" in done.stderr
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
    ("GRADIENT_ACCUMULATION_STEPS", "0", None),
])
def test_what_a_run_cannot_do_is_refused(setting, value, message, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(f"ACCELERATE_{setting}", value)
    if message is None:
        with pytest.raises(SystemExit, match="2"):
            here(*OPTIONS, "--output", str(tmp_path / "run"))
        assert "accelerate launch: error: argument --grad-accum-steps: " in capsys.readouterr().err
    else:
        assert message in failure(capsys, *OPTIONS, "--output", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_fp16_on_a_cpu_is_refused(monkeypatch, tmp_path):
    fake = SimpleNamespace(mixed_precision="fp16", device=torch.device("cpu"), log_with=[])
    monkeypatch.setattr(processes, "Accelerator", lambda **options: fake)
    with pytest.raises(BurnError, match="fp16, which a CPU has not"):
        processes.make_accelerator("none", tmp_path)


def test_tpus_are_refused(monkeypatch):
    state = SimpleNamespace(num_processes=1, distributed_type=DistributedType.XLA)
    monkeypatch.setattr(processes, "PartialState", lambda **options: state)
    with pytest.raises(BurnError, match="asks for TPUs"):
        processes.join_processes()


@pytest.mark.slow
def test_two_machines_are_one_run(tmp_path):
    """Two agents of torchrun on loopback, with a process each, train what two processes of one agent do."""
    launch(2, str(ROOT / "train_burn.py"), *EIGHT_STEPS, "--output", str(tmp_path / "one"))
    agents = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", "--node_rank",
             str(rank), "--rdzv_backend", "c10d", "--rdzv_id", "1", "--rdzv_endpoint", "127.0.0.1:29618",
             str(ROOT / "train_burn.py"), *EIGHT_STEPS, "--output", str(tmp_path / "two")],
            stderr=subprocess.PIPE, text=True, env=plain_environment(),
        )
        for rank in range(2)
    ]
    for agent in agents:
        told = agent.communicate(timeout=240)[1]
        assert agent.returncode == 0, told[-3000:]
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["processes"] == 2
    packed = "export/model.safetensors"
    assert (tmp_path / "one" / packed).read_bytes() == (tmp_path / "two" / packed).read_bytes()
    assert log(tmp_path / "one", "loss") == log(tmp_path / "two", "loss")
