"""Two processes of 16 images compute what one of 32 does."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from data.pictures import write
from hub_server import HubServer
from methods.cases import OPTIONS

from burn_timm.data.loader import epoch_order, seed_for
from burn_timm.training.logs import RunLog

from .runs import ROOT, SHORT, assert_same_run, checkpoint, forked, here, log, words_of
from .test_launch import plain_environment
from .two_process_worker import encoder, record, work

WORKER = Path(__file__).with_name("two_process_worker.py")
SCRIPT = ROOT / "train_burn.py"
STEPS = f"{SHORT} --batch-size 32 --log-interval 1 --val-split none --max-steps 2"


def run(*options: object, launcher: str = "--standalone --nproc_per_node 2", **env: str) -> subprocess.Popen:
    """A script in two processes on the CPU by torchrun, as README says."""
    words = [sys.executable, "-m", "torch.distributed.run", *words_of(launcher, *options)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**plain_environment(), **env})


def told(process: subprocess.Popen, fails: bool = False) -> list[str]:
    """What a run has written to stderr, at its end."""
    text = process.communicate(timeout=240)[1]
    assert (process.returncode != 0) == fails, text[-3000:]
    return text.splitlines()


def together(call: Callable, *args: object, count: int = 2) -> list[int]:
    """Exit codes of `count` forked processes that are one group, each of which calls `call(*args)`."""
    with pytest.MonkeyPatch.context() as patched, socket.socket() as free:
        patched.delenv("ACCELERATE_USE_CPU", raising=False)
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        free.close()
        env = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        group = [forked(call, *args, RANK=str(rank), LOCAL_RANK=str(rank), **env) for rank in range(count)]
    for process in group:
        process.join(240)
    return [process.exitcode for process in group]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Records of one process and of two, and the folder of a run in two."""
    folder = tmp_path_factory.mktemp("both")
    assert together(work, 16, folder / "2.pt", words_of(STEPS, "--output", folder / "run")) == [0, 0]
    record(32, folder / "1.pt")
    return [torch.load(folder / f"{processes}.pt", weights_only=True) for processes in (1, 2)], folder / "run"


@pytest.mark.parametrize("case", OPTIONS)
def test_losses_and_gradients_of_two_steps_agree(case, both):
    one, two = (record[case] for record in both[0])
    assert [step["processes"] for step in one] == [1] * 2 and [step["processes"] for step in two] == [2] * 2
    for a, b in zip(one, two, strict=True):
        assert len(a["gradients"]) > 20
        for kind in ("scalars", "queues", "gradients"):
            torch.testing.assert_close(a[kind], b[kind], atol=1e-8, rtol=0)


def test_keys_are_normalised_among_strangers(both):
    """MoCo's shuffling BatchNorm: a process's keys go through the encoder with images of both, and come back to it."""
    alone, shuffled = (record["shuffled keys"] for record in both[0])
    orders = []
    for step in shuffled:
        key_of = {}
        for group in step["seen"]:  # those that one process encoded together
            keys = torch.nn.functional.normalize(encoder().train()(group), dim=-1)
            key_of.update({image.numpy().tobytes(): key for image, key in zip(group, keys.detach(), strict=True)})
        places = [[image.numpy().tobytes() for image in step["images"]].index(image.numpy().tobytes())
                  for image in step["seen"].flatten(0, 1)]
        assert step["seen"].shape[:2] == (2, 16) and sorted(places) == list(range(32))
        assert any(place < 16 for place in places[16:]) and any(place >= 16 for place in places[:16])
        expected = torch.stack([key_of[image.numpy().tobytes()] for image in step["images"]])
        torch.testing.assert_close(step["keys"], expected, atol=1e-12, rtol=0)
        orders.append(places)
    assert orders[0] != orders[1]  # a new order in every step
    for step in alone:  # one process has nobody to hide from
        assert torch.equal(step["seen"][0], step["images"])


def test_what_fails_on_the_main_process_fails_on_both(both):
    assert [record["refused"] for record in both[0]] == [["me/student holds files"] * n for n in (1, 2)]


def test_train_burn_in_two_processes_is_one_run(both):
    _, whole = both
    assert log(whole, "step") == list(range(1, 5)) and set(log(whole, "total_batch_size")) == {64}
    assert checkpoint(whole)["identity"]["processes"] == 2
    assert_no_gloo(whole)


def assert_no_gloo(folder: Path) -> None:
    """A thread of the process group that lets go of its last tensor while the interpreter ends aborts the process."""
    for rank in range(2):
        names = json.loads((folder / f"threads.{rank}.json").read_text())
        assert not [name for name in names if "gloo" in name]
        assert names or not sys.platform.startswith("linux")


@pytest.mark.slow
def test_no_thread_of_the_process_group_outlives_a_run_that_fails(tmp_path):
    output = tmp_path / "run"
    lines = told(run(WORKER, 16, tmp_path / "2.pt", STEPS, "--opt sgd --lr 1e30 --output", output), fails=True)
    assert sum("train_burn.py: error: " in line and "not finite" in line for line in lines) == 2, lines
    assert_no_gloo(output)


@pytest.mark.slow
def test_train_burn_in_two_processes_repeats_and_two_machines_are_one_run(both, tmp_path):
    """Two agents of torchrun on loopback, with a process each, train what two processes of one agent do."""
    told(run(SCRIPT, STEPS, "--checkpoint-steps 1 --output", tmp_path / "again"))
    machines = "--nnodes 2 --nproc_per_node 1 --rdzv_backend c10d --rdzv_id 1 --rdzv_endpoint 127.0.0.1:29618"
    agents = [
        run(SCRIPT, STEPS, "--output", tmp_path / "machines", launcher=f"{machines} --node_rank {rank}")
        for rank in range(2)
    ]
    for agent in agents:
        told(agent)
    for name in ("again", "machines"):
        assert_same_run(both[1], tmp_path / name)


def killed_in_step_4(*options: object) -> None:
    step, seen = RunLog.step, []

    def count(log: RunLog, images: int) -> None:
        step(log, images)
        seen.append(images)
        if len(seen) == 4:
            os._exit(1)

    RunLog.step = count
    here(*options)


@pytest.mark.slow
def test_three_processes_resume_to_the_same_bits(tmp_path):
    """Of three numbers the order of summation matters, and DistributedDataParallel changed it after its first step."""
    words = f"{STEPS} --batch-size 16 --stages w1a1 --max-steps 6 --checkpoint-steps 3"
    assert together(here, words, "--output", tmp_path / "unbroken", count=3) == [0] * 3
    assert 0 not in together(killed_in_step_4, words, "--output", tmp_path / "resumed", count=3)
    assert together(here, words, "--resume auto --output", tmp_path / "resumed", count=3) == [0] * 3
    assert_same_run(tmp_path / "unbroken", tmp_path / "resumed")


@pytest.mark.slow
def test_a_refused_push_ends_both_processes_with_the_same_line(tmp_path):
    """Before the first step, and after the last: the other process would wait for one that has gone."""
    options = f"{STEPS} --stages w1a1 --max-steps 1 --push-to-hub student --output {tmp_path / 'run'}"
    with HubServer() as hub:
        env = hub.environment(tmp_path / "home")
        hub.commit("me/student", {"README.md": b"another network"})
        taken = told(run(SCRIPT, options, **env), fails=True)
        assert not (tmp_path / "run").exists()
        hub.clear()
        hub.faults = {"POST /api/models/me/student/commit/": [500]}
        failed = told(run(SCRIPT, options, **env), fails=True)
        assert (tmp_path / "run" / "export" / "model.safetensors").is_file() and hub.repos["me/student"] == []
    for lines, reason in ((taken, "holds files already"), (failed, "500")):
        lines = [line for line in lines if "train_burn.py: error: " in line]
        assert len(lines) == 2 and len(set(lines)) == 1, lines
        assert "error: --push-to-hub me/student: " in lines[0] and reason in lines[0]


@pytest.mark.slow
def test_corrupt_images_of_both_processes_count_together(tmp_path):
    """Two in each process's share of 300: neither finds more than 1 %, both together do, which the next save tells."""
    order = epoch_order(seed_for(0, 0), 0, 300).view(-1, 2, 15)  # micro-steps, processes, their images
    broken = [int(order[step, rank, 4]) for step in (0, 4) for rank in (0, 1)]
    for index in range(300):
        name = f"class{index // 150}/{index:04d}.png"
        write(tmp_path / "photos" / name, index, 8, cut=60 if index in broken else 0)
    options = f"{SHORT} --dataset folder --data-dir {tmp_path / 'photos'} --batch-size 15 --seed 0 --val-split none"
    lines = told(run(SCRIPT, options, "--checkpoint-steps 2 --epochs 2 --output", tmp_path / "run"), fails=True)
    assert "error: at least 4 of 300 images cannot be read, more than 1%" in "\n".join(lines)
    kept = checkpoint(tmp_path / "run")
    assert (kept["stage"], kept["step"]) == (0, 4) and kept["corrupt"]["indices"] == sorted(broken[:2])
