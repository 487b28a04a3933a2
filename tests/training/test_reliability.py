"""What a run meets in a year of use: other data, a second run, a full disk, Ctrl-C, edited files. Each is one line."""

import functools
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import safetensors.torch
import torch
from PIL import Image

import eval_downstream
from burn_timm import runs
from burn_timm.data import decode
from burn_timm.data.datasets import open_dataset
from burn_timm.errors import BurnError
from burn_timm.files import atomic_write, locked, write_json
from burn_timm.training.state import VERSION

from .runs import ROOT, SHORT, command, environment, failure
from .runs import here as run_here

LENGTH = ["--max-steps", "3", "--checkpoint-steps", "2", "--log-interval", "1", "--val-split", "none"]


def here(*options: object) -> None:
    run_here(*SHORT, *LENGTH, *map(str, options))


def photos(folder, count=70):
    for number in range(count):
        file = folder / f"class{number % 2}" / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number, 0, 0)).save(file)
    return folder


# The listing of the images -------------------------------------------------------------------------------------------


def test_a_changed_dataset_of_the_same_size_is_not_resumed(tmp_path, capsys):
    data = photos(tmp_path / "photos")
    options = ["--dataset", "folder", "--output", tmp_path / "run", "--resume", "auto"]
    here(*options, "--data-dir", data)
    moved = data.rename(tmp_path / "moved")
    here(*options, "--data-dir", moved)
    (moved / "class0" / "000.png").rename(moved / "class0" / "001.png")
    told = failure(capsys, *SHORT, *LENGTH, *map(str, options), "--data-dir", str(moved))
    assert "belongs to another run: listing (names, sizes and labels of the images) '" in told


def test_the_listing_tells_names_sizes_and_labels(tmp_path):
    datasets = pytest.importorskip("datasets")
    data = photos(tmp_path / "photos", 4)

    def of_folder():
        return open_dataset("folder", str(data)).listing_hash()

    def of_rows(side, label):
        folder = tmp_path / f"{side} {label}"
        folder.mkdir(exist_ok=True)
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
        Image.new("RGB", (side, side)).save(tmp_path / "black.png")
        rows = {"image": [str(tmp_path / "black.png"), str(data / "class1" / "001.png")], "label": [0, label]}
        datasets.Dataset.from_dict(rows, features).to_parquet(folder / "train.parquet")
        return open_dataset(f"hfds/{folder}", str(tmp_path / "cache")).listing_hash()

    first = of_folder()
    assert first == of_folder()
    Image.effect_noise((32, 32), 50).save(data / "class0" / "000.png")
    other_size = of_folder()
    (data / "class0" / "000.png").rename(data / "class1" / "000.png")
    assert len({first, other_size, of_folder()}) == 3
    assert len({of_rows(9, 0), of_rows(9, 1), of_rows(90, 0)}) == 3 and of_rows(9, 0) == of_rows(9, 0)


# Two runs on one output ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["train", "knn"])
def test_two_runs_on_one_output(task, tmp_path, capsys):
    pytest.importorskip("fcntl")
    if task == "train":
        output, lock = tmp_path / "run", tmp_path / "run" / ".lock"
        call = functools.partial(here, "--output", output)
    else:
        output, lock = tmp_path / "r.json", tmp_path / ".r.json.lock"
        options = ["--pixels", "--dataset", "digits", "--workers", "0", "--limit-train", "100"]
        call = functools.partial(eval_downstream.main, ["knn", *options, "--output", str(output)])
    lock.parent.mkdir(exist_ok=True)
    hold = "import sys, time; from burn_timm.files import locked\nwith locked(sys.argv[1], ''): print(); time.sleep(99)"
    words = [sys.executable, "-u", "-c", hold, str(lock)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment()) as run:
        run.stdout.readline()
        with pytest.raises(SystemExit, match="2"):
            call()
        told = capsys.readouterr().err
        assert f"--output {output}: another run is writing there (process {run.pid} on " in told
        run.kill()
    call()  # the system has taken the lock back
    assert not lock.exists()


def test_a_lock_that_is_held_says_by_whom_and_systems_without_locks_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr("burn_timm.files.fcntl", None)
    with locked(tmp_path / "lock", "x"):
        assert not (tmp_path / "lock").exists()


# A full disk ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def full_disk():
    """Files of this process cannot grow above 4 KiB: the same error of write() as on a full disk, by another number."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
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
def test_a_full_disk_is_one_line_that_names_the_file(write, full_disk, tmp_path):
    with pytest.raises(BurnError, match="file: cannot be written ") as told:
        write(tmp_path / "file")
    assert "\n" not in str(told.value) and len(list(tmp_path.iterdir())) <= 1


@pytest.mark.parametrize(("limit", "file"), [
    pytest.param(80, "run: cannot be written", marks=pytest.mark.slow), (40_000, "checkpoint.pt: cannot be written"),
])
def test_a_run_on_a_full_disk_ends_with_one_line(limit, file, tmp_path):
    """TensorBoard's thread is the first that fails, or the checkpoint."""
    options = [*LENGTH, "--log-with", "tensorboard", "--output", str(tmp_path / "run")]
    done = subprocess.run(
        command(*options), capture_output=True, text=True, env=environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert file in done.stderr.splitlines()[-1] and "too large" in done.stderr.splitlines()[-1]


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


@pytest.mark.parametrize("task", ["train", pytest.param("knn", marks=pytest.mark.slow)])
def test_ctrl_c_with_workers_is_one_line(task, tmp_path):
    if task == "train":
        words = command(*LENGTH, "--max-steps", "900", "--no-compile", "--output", str(tmp_path / "run"), workers=2)
        marker, line = b"/1800 [", "train_burn.py: interrupted; resume with --resume auto and the same --output"
    else:
        words = [sys.executable, str(ROOT / "eval_downstream.py"), "knn", "--model", "resnet50", "--workers", "2"]
        words += ["--dataset", "digits", "--output", str(tmp_path / "r.json")]
        marker, line = b"train features:", "eval_downstream.py: interrupted"
    ((code, told),) = interrupted([words], marker, tmp_path, [environment()])
    assert code == 130 and told.splitlines()[-1] == line and told.count("interrupted") == 1
    assert "Traceback" not in told and "Error" not in told
    assert not (tmp_path / "run" / ".lock").exists() and not (tmp_path / ".r.json.lock").exists()


@pytest.mark.slow
def test_ctrl_c_ends_every_process_of_a_run(tmp_path):
    options = [*LENGTH, "--max-steps", "900", "--batch-size", "32", "--no-compile", "--output", str(tmp_path / "run")]
    settings = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29617"}
    ranks = [{**environment(), **settings, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    (first, told), (second, silent) = interrupted([command(*options, workers=1)] * 2, b"loss", tmp_path, ranks)
    assert (first, second) == (130, 130)
    assert told.count("interrupted; resume with --resume auto") == 1 and "interrupted" not in silent
    assert "Traceback" not in told + silent


# Edited files --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    output = tmp_path_factory.mktemp("unbroken") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ACCELERATE_USE_CPU", "true")
        step = runs.LineLog.write

        def break_off(log, line):
            step(log, line)
            if line["step"] == 3:
                raise KeyboardInterrupt

        patched.setattr(runs.LineLog, "write", break_off)
        with pytest.raises(SystemExit, match="130"):
            here("--output", output)
    return output


@pytest.mark.parametrize("changes", [
    {"stage": "one"}, {"stage": 7}, {"step": -1}, {"step": 2.0}, {"method": {}}, {"method": {"backbone": 1}},
    {"method": []}, {"optimizer": None}, {"optimizer": {"state": 1}}, {"seconds": {"train_seconds": "many"}},
    {"corrupt": {}}, {"corrupt": None}, {"more": 1}, {"scaler": "x"},
], ids=str)
def test_odd_content_of_a_checkpoint_is_one_line(changes, unbroken, tmp_path, capsys):
    identity, content = runs.load_checkpoint(unbroken / "checkpoint.pt", VERSION)
    runs.save_checkpoint(tmp_path / "odd.pt", VERSION, identity, {**content, **changes})
    told = failure(capsys, *SHORT, *LENGTH, "--output", str(tmp_path / "new"), "--resume", str(tmp_path / "odd.pt"))
    assert "odd.pt" in told and "no checkpoint of such a run (" in told


@pytest.mark.parametrize("saved", [
    [], {"version": "three"}, {"version": 3, "identity": 1, "content": {}},
    {"version": 3, "identity": {}, "content": {1}},
    {"version": 3, "identity": {1: torch.zeros(2), "a": {}}, "content": {}},
], ids=str)
def test_odd_checkpoints_are_one_line(saved, tmp_path):
    import hashlib
    import io

    data = io.BytesIO()
    torch.save(saved, data)
    path = tmp_path / "odd.pt"
    path.write_bytes(data.getvalue() + runs._MARK + hashlib.sha256(data.getvalue()).digest())
    with pytest.raises(BurnError, match="odd.pt: "):
        runs.require_same_run(path, runs.load_checkpoint(path, 3)[0], {1: torch.ones(2), "images": 3})


@pytest.mark.parametrize("line", [b"\xff\xfe{}", b"[1]", b'"text"', b'{"step": "one"}', b"{}"])
def test_an_odd_line_of_a_log_is_one_line(line, unbroken, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_bytes(line + b"\n" + (unbroken / "log.jsonl").read_bytes())
    options = ["--output", str(tmp_path / "run"), "--resume", str(unbroken / "checkpoint.pt")]
    assert "log.jsonl" in failure(capsys, *SHORT, *LENGTH, *options)


# Pixels --------------------------------------------------------------------------------------------------------------


def test_16_bit_grey_is_told_of_once(caplog):
    decode._tell_of_sixteen_bits.cache_clear()
    for _ in range(2):
        assert decode.to_rgb(Image.new("I;16", (1, 1), 257 * 127)).getpixel((0, 0)) == (127, 127, 127)
    assert caplog.text.count("16-bit grey images") == 1
