"""A run that is killed with SIGKILL and resumed ends in the same bits as one that is not."""

import json
import signal
import subprocess
import time

import pytest
import torch
from safetensors.torch import load_file

import train_burn
from burn_timm import runs
from burn_timm.training.state import VERSION, find_checkpoint

from .runs import DIGITS, SHORT, TEACHER, checkpoint, command, environment, failure, log, train
from .runs import here as run_here

LENGTH = [
    "--epochs", "2", "--max-steps", "30", "--checkpoint-steps", "4", "--log-interval", "1", "--drop", "0.1",
    "--val-split", "none", "--train-split", "test", "--batch-size", "16",
]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    output = tmp_path_factory.mktemp("unbroken") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ACCELERATE_USE_CPU", "true")
        here(*LENGTH, "--output", str(output))
    return output


def here(*options: str) -> None:
    run_here(*SHORT, *options)


def kill_after(step: int, output, *options: str, workers: int = 0) -> None:
    """Start or resume a run and SIGKILL it as soon as its log shows `step`."""
    process = subprocess.Popen(
        command(*options, "--output", str(output), "--resume", "auto", workers=workers), env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )
    path = output / "log.jsonl"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and (path.read_text() if path.exists() else "").count("}\n") < step:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def assert_same_export(one, other) -> None:
    packed = "export/model.safetensors"
    assert (one / packed).read_bytes() == (other / packed).read_bytes()


# 360 digits make 22 steps of 16 an epoch: 7 and 27 lie in the first and second epoch of stage 1, 47 in stage 2.
@pytest.mark.parametrize(("workers", "steps"), [
    (0, [47]),
    pytest.param(0, [7, 27, 47], marks=pytest.mark.slow),
    pytest.param(2, [7, 27, 47], marks=pytest.mark.slow),
])
def test_killed_and_resumed_equals_unbroken(unbroken, tmp_path, workers, steps):
    output = tmp_path / "run"
    for step in steps:
        kill_after(step, output, *LENGTH, workers=workers)
    kept_before = checkpoint(output)["seconds"]
    done = train(*LENGTH, "--output", str(output), "--resume", "auto", workers=workers)
    assert done.returncode == 0, done.stderr[-2000:]
    expected, found = load_file(unbroken / "latent.safetensors"), load_file(output / "latent.safetensors")
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    assert_same_export(unbroken, output)
    assert log(unbroken, "loss") == log(output, "loss") and len(log(output)) == 60
    kept = checkpoint(output)["seconds"]
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
        *TEACHER, "--views", "cross", "--channels-last", "--grad-accum-steps", "2", "--cache", "disk", "--cache-size",
        "32",
    ]),
])
def test_every_kind_of_state_resumes_within_a_stage_and_across_stages(method, options, tmp_path, monkeypatch):
    """Broken off in step 3, in step 5, the first of stage 2, and in step 7; each time the last two steps are kept."""
    argv = [
        *DIGITS, "--method", method, "--cache-dir", str(tmp_path / "cache"), *options, "--batch-size", "32",
        "--max-steps", "4", "--lr", "1e-2", "--checkpoint-steps", "2", "--log-interval", "1", "--val-split", "none",
    ]
    run_here(*argv, "--output", str(tmp_path / "unbroken"))

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
            with pytest.raises(SystemExit, match="130"):  # Ctrl-C
                run_here(*argv, "--output", str(output), "--resume", "auto")
            saved = checkpoint(output)
            assert (saved["stage"], saved["step"]) == kept
    run_here(*argv, "--output", str(output), "--resume", "auto")
    ends = [checkpoint(run)["method"] for run in (tmp_path / "unbroken", output)]
    assert ends[0].keys() == ends[1].keys()
    for name, tensor in ends[0].items():
        assert torch.equal(tensor, ends[1][name]), name
    assert log(tmp_path / "unbroken", "loss") == log(output, "loss") and len(log(output)) == 8
    assert_same_export(tmp_path / "unbroken", output)


def test_a_finished_run_resumes_to_its_own_export(unbroken):
    before = (unbroken / "export/model.safetensors").read_bytes()
    (unbroken / "export/model.safetensors").unlink()
    here(*LENGTH, "--output", str(unbroken), "--resume", "auto")
    assert (unbroken / "export/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("options, message", [
    ([], "holds a run already"),
    (["--resume", "auto", "--lr", "1e-2"], "belongs to another run: lr 0.0003 there, 0.01 here"),
    (["--resume", "auto", "--teacher-kwargs", "drop_rate=0.1"], "drop-rate None there, 0.1 here"),
    (["--resume", "auto", "--teacher", "test_efficientnet"], "name 'test_resnet' there, 'test_efficientnet' here; sha"),
    (["--resume", "missing.pt"], "no such file"),
    (["--resume", "{other}"], "holds a run already; --resume auto goes on with it"),
])
def test_a_resume_that_does_not_fit_is_one_line(unbroken, capsys, tmp_path, options, message):
    other, own = tmp_path / "other.pt", unbroken / "checkpoint.pt"
    other.write_bytes(own.read_bytes())
    options = [option.format(other=other) for option in options]
    assert message in failure(capsys, *SHORT, *LENGTH, "--output", str(unbroken), *options)
    assert find_checkpoint(str(own), unbroken) == own


@pytest.mark.parametrize(("where", "there", "message"), [
    (("options", "temperature"), 0.2, "temperature 0.2 there, 1.0 here"),  # as of the commit whose default that was
    (("mixed_precision",), "bf16", "mixed-precision 'bf16' there, 'no' here"),
    ((), None, "damaged (its checksum is wrong)"),
])
def test_a_run_that_has_changed_is_refused(unbroken, capsys, tmp_path, where, there, message):
    settings = json.loads((unbroken / "summary.json").read_text())["settings"]
    assert (settings["temperature"], settings["view"], settings["teacher_img_size"]) == (1.0, "light", 32)
    other = tmp_path / "other.pt"
    if where:
        identity, content = runs.load_checkpoint(unbroken / "checkpoint.pt", VERSION)
        holder = identity
        for name in where[:-1]:
            holder = holder[name]
        holder[where[-1]] = there
        runs.save_checkpoint(other, VERSION, identity, content)
    else:
        other.write_bytes((unbroken / "checkpoint.pt").read_bytes().replace(b"student_head", b"Student_head"))
    options = ["--output", str(tmp_path / "new"), "--resume", str(other)]
    assert f"other.pt: {'' if there is None else 'belongs to another run: '}{message}" in failure(
        capsys, *SHORT, *LENGTH, *options,
    )


@pytest.mark.slow  # the compiler takes a minute for each of two stages, then it has kept what it made
@pytest.mark.parametrize("how", [[], ["--grad-checkpointing"]])
def test_a_compiled_run_resumes_to_the_same_bits_and_trains_like_an_eager_one(how, tmp_path):
    length = ["--max-steps", "6", "--checkpoint-steps", "2", "--log-interval", "1", "--val-split", "none", *how]
    kill_after(3, tmp_path / "resumed", *length, "--compile")
    for name, options in (("eager", []), ("unbroken", ["--compile"]), ("resumed", ["--compile", "--resume", "auto"])):
        done = train(*length, *options, "--output", str(tmp_path / name))
        assert done.returncode == 0, done.stderr[-2000:]
    assert_same_export(tmp_path / "unbroken", tmp_path / "resumed")
    eager, compiled = (log(tmp_path / name, "loss") for name in ("eager", "unbroken"))
    assert compiled[0] == pytest.approx(eager[0], rel=1e-4)
    assert compiled == pytest.approx(eager, rel=0.1)  # one rounding flips a sign, and that more of them

