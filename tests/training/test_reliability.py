"""What a run meets in a year of use: a second run, a full disk, Ctrl-C. Each is one line."""

import contextlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import safetensors.torch
import torch

import eval_downstream
from burn_timm import runs
from burn_timm.errors import BurnError
from burn_timm.files import atomic_write, locked, write_json

from .runs import ONE_STEP, ROOT, SHORT, command, environment, failure, here, words_of

# Two runs on one output ----------------------------------------------------------------------------------------------


def hold(lock, ready) -> None:
    with locked(lock, ""):
        ready.set()
        time.sleep(99)


@pytest.mark.parametrize("task", ["train", "knn"])
def test_two_runs_on_one_output(task, tmp_path, capsys):
    pytest.importorskip("fcntl")
    if task == "train":
        output, lock = tmp_path / "run", tmp_path / "run" / ".lock"
        words = words_of(ONE_STEP, "--output", output)
    else:
        output, lock = tmp_path / "r.json", tmp_path / ".r.json.lock"
        words = words_of("knn --pixels --dataset digits --workers 0 --limit-train 100 --output", output)
    call = here if task == "train" else lambda *words: eval_downstream.main(list(words))
    lock.parent.mkdir(exist_ok=True)
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    other = fork.Process(target=hold, args=(lock, ready))
    other.start()
    ready.wait(60)
    with pytest.raises(SystemExit, match="2"):
        call(*words)
    assert f"--output {output}: another run is writing there (process {other.pid} on " in capsys.readouterr().err
    other.kill()
    other.join()
    call(*words)  # the system has taken the lock back
    assert not lock.exists()


def test_systems_without_locks_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr("burn_timm.files.fcntl", None)
    with locked(tmp_path / "lock", "x"):
        assert not (tmp_path / "lock").exists()


# A full disk ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def full_disk(limit: int):
    """Files of this process cannot grow above `limit` bytes: the same error as on a full disk, but for its number."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def by_torch(path):
    with atomic_write(path) as beside:
        torch.save(torch.zeros(5000), beside)


def by_safetensors(path):
    with atomic_write(path) as beside:
        safetensors.torch.save_file({"w": torch.zeros(5000)}, beside)


def to_log(path):
    log = runs.LineLog(path, 0)
    try:
        for step in range(1000):
            log.write({"step": step})
    finally:
        log.close()


@pytest.mark.parametrize("write", [
    by_torch, by_safetensors, to_log, lambda path: write_json(path, ["x" * 5000]),
    lambda path: runs.save_checkpoint(path, 1, {}, {"w": torch.zeros(5000)}),
])
def test_a_full_disk_is_one_line_that_names_the_file(write, tmp_path):
    with pytest.raises(BurnError, match="file: cannot be written ") as told, full_disk(4096):
        write(tmp_path / "file")
    assert "\n" not in str(told.value) and len(list(tmp_path.iterdir())) <= 1


@pytest.mark.parametrize(("limit", "file"), [(80, "run: cannot be written"), (40_000, "checkpoint.pt: cannot be")])
def test_a_run_on_a_full_disk_ends_with_one_line(limit, file, tmp_path, capsys):
    """TensorBoard's thread is the first that fails, or the checkpoint."""
    with full_disk(limit):
        told = failure(capsys, ONE_STEP, "--max-steps 3 --checkpoint-steps 2 --log-interval 1 --log-with tensorboard",
                       "--output", tmp_path / "run")
    assert file in told and "too large" in told


# Ctrl-C --------------------------------------------------------------------------------------------------------------


def interrupted(commands: list[list[str]], marker: bytes, tmp_path, environments: list[dict]) -> list[tuple[int, str]]:
    """Exit codes and stderr of processes that get SIGINT, as from a terminal, once the first one has told `marker`."""
    files = [open(tmp_path / f"stderr{number}", "wb+") for number in range(len(commands))]
    processes = [
        subprocess.Popen(
            words, stderr=file, stdout=subprocess.DEVNULL, env=env, start_new_session=True,
            # A shell starts its background jobs with SIGINT ignored, and every child of the tests would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        for words, file, env in zip(commands, files, environments, strict=True)
    ]
    deadline = time.monotonic() + 120
    while marker not in (tmp_path / "stderr0").read_bytes() and time.monotonic() < deadline:
        assert processes[0].poll() is None, (tmp_path / "stderr0").read_text()
        time.sleep(0.05)
    for process in processes:
        os.killpg(process.pid, signal.SIGINT)
    started = time.monotonic()
    codes = [process.wait(60) for process in processes]
    assert time.monotonic() - started < 2 * len(commands) + 1  # 1 s because tests share the machine
    return [(code, (tmp_path / f"stderr{number}").read_text()) for number, code in enumerate(codes)]


LONG = f"{SHORT} --max-steps 900 --log-interval 1 --val-split none"


@pytest.mark.parametrize("task", ["train", pytest.param("knn", marks=pytest.mark.slow)])
def test_ctrl_c_with_workers_is_one_line(task, tmp_path):
    if task == "train":
        words = command(LONG, "--workers 2 --output", tmp_path / "run")
        marker, line = b"/1800 [", "train_burn.py: interrupted; resume with --resume auto and the same --output"
    else:
        words = [sys.executable, str(ROOT / "eval_downstream.py")]
        words += words_of("knn --model resnet50 --workers 2 --dataset digits --output", tmp_path / "r.json")
        marker, line = b"train features:", "eval_downstream.py: interrupted"
    ((code, told),) = interrupted([words], marker, tmp_path, [environment()])
    assert code == 130 and told.splitlines()[-1] == line and told.count("interrupted") == 1
    assert "Traceback" not in told and "Error" not in told
    assert not (tmp_path / "run" / ".lock").exists() and not (tmp_path / ".r.json.lock").exists()


@pytest.mark.slow
def test_ctrl_c_ends_every_process_of_a_run(tmp_path):
    words = command(LONG, "--batch-size 32 --workers 1 --output", tmp_path / "run")
    settings = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29617"}
    ranks = [{**environment(), **settings, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    (first, told), (second, silent) = interrupted([words] * 2, b"loss", tmp_path, ranks)
    assert (first, second) == (130, 130)
    assert told.count("interrupted; resume with --resume auto") == 1 and "interrupted" not in silent
    assert "Traceback" not in told + silent
