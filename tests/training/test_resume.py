"""A run that is killed with SIGKILL and resumed ends in the same bits as one that is not."""

import json
import signal
import subprocess
import time

import pytest
import torch
from safetensors.torch import load_file

import train_burn

from .runs import SHORT, command, environment, train

LENGTH = [
    "--epochs", "2", "--max-steps", "30", "--checkpoint-steps", "4", "--log-interval", "1", "--drop", "0.1",
    "--val-split", "none",
]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    output = tmp_path_factory.mktemp("unbroken") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ACCELERATE_USE_CPU", "true")
        here(*LENGTH, "--output", str(output))
    return output


def here(*options: str) -> None:
    """Run in this process, whose start is the longest part of a short run."""
    train_burn.main([*SHORT, "--workers", "0", *options])


def kill_after(step: int, output, workers: int) -> None:
    """Start or resume a run and SIGKILL it as soon as its log shows `step`."""
    process = subprocess.Popen(
        command(*LENGTH, "--output", str(output), "--resume", "auto", workers=workers), env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )
    log = output / "log.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        lines = [line for line in (log.read_text() if log.exists() else "").splitlines() if line.endswith("}")]
        if lines and json.loads(lines[-1])["step"] >= step:
            break
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


# 1437 digits make 22 steps of 64 an epoch: 7 and 27 lie in the first and second epoch of stage 1, 47 in stage 2.
@pytest.mark.parametrize(("workers", "steps"), [
    (0, [47]),
    pytest.param(0, [7, 27, 47], marks=pytest.mark.slow),
    pytest.param(2, [7, 27, 47], marks=pytest.mark.slow),
])
def test_killed_and_resumed_equals_unbroken(unbroken, tmp_path, workers, steps):
    output = tmp_path / "run"
    for step in steps:
        kill_after(step, output, workers)
    kept_before = torch.load(output / "checkpoint.pt", weights_only=True)["seconds"]
    done = train(*LENGTH, "--output", str(output), "--resume", "auto", workers=workers)
    assert done.returncode == 0, done.stderr[-2000:]
    expected, found = load_file(unbroken / "latent.safetensors"), load_file(output / "latent.safetensors")
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    packed = "export/model.safetensors"
    assert (unbroken / packed).read_bytes() == (output / packed).read_bytes()
    losses = [[json.loads(line)["loss"] for line in open(run / "log.jsonl")] for run in (unbroken, output)]
    assert losses[0] == losses[1] and len(losses[0]) == 60
    kept = torch.load(output / "checkpoint.pt", weights_only=True)["seconds"]
    summary = json.loads((output / "summary.json").read_text())
    for name in ("train_seconds", "cpu_seconds"):
        assert 0 < kept_before[name] < kept[name] <= summary[name]


@pytest.mark.parametrize("method, options", [
    ("swav", [
        "--queue-size", "48", "--queue-start-epoch", "0", "--freeze-prototypes-epochs", "0.05", "--prototypes", "20",
        "--hidden-dim", "32", "--small-views", "1",
    ]),
    ("mocov2", ["--queue-size", "48", "--target-momentum", "0.9"]),
    ("mocov2", [
        "--queue-size", "48", "--view", "burn", "--views-on", "device", "--workers", "1", "--grad-checkpointing",
        "--cache", "memory",
    ]),
    ("burn", [
        "--teacher", "test_resnet", "--target-head", "swapped", "--center-momentum", "0.9", "--fs-center",
        "--grad-accum-steps", "2", "--cache", "disk", "--cache-size", "32",
    ]),
])
def test_queues_prototypes_and_momentum_targets_resume_within_a_stage_and_across_stages(
    method, options, tmp_path, monkeypatch,
):
    """Broken off in step 3, in step 5, the first of stage 2, and in step 7; each time the last two steps are kept."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    argv = [
        *SHORT, "--method", method, "--teacher", "", "--workers", "0",
        "--cache-dir", str(tmp_path / "cache"), *options, "--batch-size", "32", "--max-steps",
        "4", "--lr", "1e-2", "--checkpoint-steps", "2", "--log-interval", "1", "--val-split", "none",
    ]
    train_burn.main([*argv, "--output", str(tmp_path / "unbroken")])

    step, broken = train_burn.RunLog.step, []

    def break_off(log, images):
        step(log, images)
        broken[0] -= 1
        if broken[0] == 0:
            raise KeyboardInterrupt

    output = tmp_path / "resumed"
    with monkeypatch.context() as patched:
        patched.setattr(train_burn.RunLog, "step", break_off)
        for steps, kept in ((3, (0, 2)), (3, (1, 0)), (3, (1, 2))):
            broken[:] = [steps]
            with pytest.raises(KeyboardInterrupt):
                train_burn.main([*argv, "--output", str(output), "--resume", "auto"])
            saved = torch.load(output / "checkpoint.pt", weights_only=True)
            assert (saved["stage"], saved["step"]) == kept
    train_burn.main([*argv, "--output", str(output), "--resume", "auto"])
    ends = [torch.load(run / "checkpoint.pt", weights_only=True)["method"] for run in (tmp_path / "unbroken", output)]
    assert any(name.endswith(("queue", "center")) for name in ends[0]) and ends[0].keys() == ends[1].keys()
    for name, tensor in ends[0].items():
        assert torch.equal(tensor, ends[1][name]), name
    losses = [[json.loads(line)["loss"] for line in open(run / "log.jsonl")] for run in (tmp_path / "unbroken", output)]
    assert losses[0] == losses[1] and len(losses[0]) == 8
    packed = "export/model.safetensors"
    assert (tmp_path / "unbroken" / packed).read_bytes() == (output / packed).read_bytes()


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run with further options and return the one line of the error."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")

    def line(*options: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            here(*LENGTH, *options)
        (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("train_burn.py: error"))
        assert stopped.value.code == 2
        return error

    return line


def test_a_finished_run_resumes_to_its_own_export(unbroken, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    before = (unbroken / "export/model.safetensors").read_bytes()
    (unbroken / "export/model.safetensors").unlink()
    here(*LENGTH, "--output", str(unbroken), "--resume", "auto")
    assert (unbroken / "export/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("options, message", [
    ([], "holds a run already"),
    (["--resume", "auto", "--lr", "1e-2"], "--lr 0.0003 there, 0.01 here"),
    (["--resume", "auto", "--teacher-kwargs", "drop_rate=0.1", "--teacher", "test_efficientnet"], "--teacher-kwargs"),
    (["--resume", "auto", "--teacher", "test_efficientnet"], "another teacher"),
    (["--resume", "missing.pt"], "no such file"),
])
def test_a_resume_that_does_not_fit_is_one_line(unbroken, refused, options, message):
    assert message in refused("--output", str(unbroken), *options)


def test_a_default_that_has_changed_is_a_mismatch(unbroken, refused, tmp_path):
    settings = json.loads((unbroken / "summary.json").read_text())["settings"]
    assert (settings["temperature"], settings["view"], settings["teacher_img_size"]) == (1.0, "light", 32)
    kept = torch.load(unbroken / "checkpoint.pt", weights_only=True)
    kept["identity"]["options"]["temperature"] = 0.2  # as of the commit whose default that was
    torch.save(kept, tmp_path / "older.pt")
    error = refused("--output", str(tmp_path / "new"), "--resume", str(tmp_path / "older.pt"))
    assert "--temperature 0.2 there, 1.0 here" in error


def test_a_resume_in_another_precision_is_refused(unbroken, refused, tmp_path):
    kept = torch.load(unbroken / "checkpoint.pt", weights_only=True)
    assert kept["identity"]["mixed_precision"] == "no"
    kept["identity"]["mixed_precision"] = "bf16"
    torch.save(kept, tmp_path / "other.pt")
    error = refused("--output", str(tmp_path / "new"), "--resume", str(tmp_path / "other.pt"))
    assert "a run with mixed precision bf16, here it is no" in error


@pytest.mark.slow  # the compiler takes a minute for each of two stages, then it has kept what it made
@pytest.mark.parametrize("how", [[], ["--grad-checkpointing"]])
def test_a_compiled_run_resumes_to_the_same_bits_and_trains_like_an_eager_one(how, tmp_path):
    runs = {"eager": how, "unbroken": [*how, "--compile"], "resumed": [*how, "--compile", "--resume", "auto"]}
    length = ["--max-steps", "6", "--checkpoint-steps", "2", "--log-interval", "1", "--val-split", "none"]
    for name, options in runs.items():
        if name == "resumed":
            process = subprocess.Popen(
                command(*length, *options, "--output", str(tmp_path / name)), env=environment(),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )
            log = tmp_path / name / "log.jsonl"
            while process.poll() is None and not (log.exists() and log.read_text().count("\n") >= 3):
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.wait()
        done = train(*length, *options, "--output", str(tmp_path / name))
        assert done.returncode == 0, done.stderr[-2000:]
    packed = "export/model.safetensors"
    assert (tmp_path / "unbroken" / packed).read_bytes() == (tmp_path / "resumed" / packed).read_bytes()
    eager, compiled = (
        [json.loads(line)["loss"] for line in open(tmp_path / name / "log.jsonl")] for name in ("eager", "unbroken")
    )
    assert compiled[0] == pytest.approx(eager[0], rel=1e-4)
    assert compiled == pytest.approx(eager, rel=0.1)  # one rounding flips a sign, and that more of them


def test_a_damaged_checkpoint_is_one_line_and_names_the_file(unbroken, refused, tmp_path):
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes((unbroken / "checkpoint.pt").read_bytes()[:5000])
    error = refused("--output", str(tmp_path / "new"), "--resume", str(damaged))
    assert "damaged.pt: not a readable checkpoint" in error
