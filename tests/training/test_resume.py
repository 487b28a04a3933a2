"""A run that is killed with SIGKILL and resumed ends in the same bits as one that is not; no other run is resumed."""

import json
import shutil
import time

import pytest
import torch
from PIL import Image

import train_burn
from burn_timm import runs
from burn_timm.training.state import VERSION, find_checkpoint

from .runs import (
    DIGITS,
    ONE_STEP,
    SHORT,
    TEACHER,
    assert_same_run,
    checkpoint,
    failure,
    forked,
    here,
    log,
    on_the_cpu_without_pictures,
)

# 360 digits make 9 steps of 40 an epoch.
RUN = (
    f"{SHORT} --epochs 2 --max-steps 14 --checkpoint-steps 4 --log-interval 1 --drop 0.1 --val-split none "
    "--train-split test --batch-size 40"
)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    output = tmp_path_factory.mktemp("unbroken") / "run"
    with pytest.MonkeyPatch.context() as patched:
        on_the_cpu_without_pictures(patched)
        here(RUN, "--output", output)
    return output


def kill_after(step: int, output, *options: object) -> None:
    """Start or resume a run and SIGKILL it as soon as its log shows `step`."""
    process = forked(here, *options, "--resume auto --output", output)
    path = output / "log.jsonl"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and (path.read_text() if path.exists() else "").count("}\n") < step:
        assert process.is_alive(), "the run ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.join()


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run that was killed in its second stage."""
    output = tmp_path_factory.mktemp("killed") / "run"
    with pytest.MonkeyPatch.context() as patched:
        on_the_cpu_without_pictures(patched)
        kill_after(21, output, RUN)
    return output


def test_killed_and_resumed_equals_unbroken(unbroken, killed, tmp_path):
    output = shutil.copytree(killed, tmp_path / "run")
    before = checkpoint(output)
    assert before["stage"] == 1 and before["step"] in (4, 8, 9)
    here(RUN, "--resume auto --output", output)
    assert_same_run(unbroken, output)
    assert len(log(output)) == 28
    kept = checkpoint(output)["seconds"]
    summary = json.loads((output / "summary.json").read_text())
    for name in ("train_seconds", "cpu_seconds"):
        assert 0 < before["seconds"][name] < kept[name] <= summary[name]


# In the first and second epoch of stage 1, and in stage 2.
@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_three_times_equals_unbroken(unbroken, tmp_path, workers):
    for step in (3, 11, 21):
        kill_after(step, tmp_path, RUN, "--workers", workers)
    here(RUN, "--resume auto --workers", workers, "--output", tmp_path)
    assert_same_run(unbroken, tmp_path)


@pytest.mark.parametrize("options", [
    "--method swav --queue-size 48 --queue-start-epoch 0 --freeze-prototypes-epochs 0.05 --prototypes 20 "
    "--hidden-dim 32 --small-views 1",
    "--method mocov2 --queue-size 48 --target-momentum 0.9 --view burn --views-on device --workers 2 "
    "--grad-checkpointing --cache memory",
    f"{TEACHER} --cache-teacher 2 --channels-last --grad-accum-steps 2 --cache disk --cache-size 32",
])
def test_every_kind_of_state_resumes_within_a_stage_and_across_stages(options, tmp_path, monkeypatch):
    """Broken off in step 3, and in step 5, the first of stage 2; each time what the last checkpoint holds is kept."""
    argv = (
        f"{DIGITS} --train-split test --cache-dir {tmp_path / 'cache'} {options} --batch-size 16 --max-steps 4 "
        "--lr 1e-2 --checkpoint-steps 2 --log-interval 1 --val-split none --output"
    )
    here(argv, tmp_path / "unbroken")
    step, left = train_burn.RunLog.step, []

    def break_off(log, images):
        step(log, images)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    output = tmp_path / "resumed"
    with monkeypatch.context() as patched:
        patched.setattr(train_burn.RunLog, "step", break_off)
        for kept in ((0, 2), (1, 0)):
            left[:] = [3]
            with pytest.raises(SystemExit, match="130"):  # Ctrl-C
                here(argv, output, "--resume auto")
            saved = checkpoint(output)
            assert (saved["stage"], saved["step"]) == kept
    here(argv, output, "--resume auto")
    assert_same_run(tmp_path / "unbroken", output)
    ends = [checkpoint(run)["method"] for run in (tmp_path / "unbroken", output)]  # queues and momentum targets too
    assert ends[0].keys() == ends[1].keys()
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []


@pytest.mark.slow  # the compiler takes a minute for each of two stages, then it has kept what it made
@pytest.mark.parametrize("how", ["", "--grad-checkpointing"])
def test_a_compiled_run_resumes_to_the_same_bits_and_trains_like_an_eager_one(how, tmp_path):
    run = f"{SHORT} --max-steps 6 --checkpoint-steps 2 --log-interval 1 --val-split none {how}"
    kill_after(3, tmp_path / "resumed", run, "--compile")
    for name, options in (("eager", ""), ("unbroken", "--compile"), ("resumed", "--compile --resume auto")):
        here(run, options, "--output", tmp_path / name)
    assert_same_run(tmp_path / "unbroken", tmp_path / "resumed")
    eager, compiled = (log(tmp_path / name, "loss") for name in ("eager", "unbroken"))
    assert compiled[0] == pytest.approx(eager[0], rel=1e-4)
    assert compiled == pytest.approx(eager, rel=0.1)  # one rounding flips a sign, and that more of them


def test_a_finished_run_resumes_to_its_own_export(unbroken):
    before = (unbroken / "export/model.safetensors").read_bytes()
    (unbroken / "export/model.safetensors").unlink()
    here(RUN, "--output", unbroken, "--resume auto")
    assert (unbroken / "export/model.safetensors").read_bytes() == before


# Other runs, and edited files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, message", [
    ("", "holds a run already"),
    ("--resume auto --lr 1e-2", "belongs to another run: lr 0.0003 there, 0.01 here"),
    ("--resume auto --teacher test_efficientnet", "name 'test_resnet' there, 'test_efficientnet' here; sha"),
    ("--resume missing.pt", "no such file"),
    ("--resume {other}", "holds a run already; --resume auto goes on with it"),
])
def test_a_resume_that_does_not_fit_is_one_line(unbroken, capsys, tmp_path, options, message):
    other, own = tmp_path / "other.pt", unbroken / "checkpoint.pt"
    other.write_bytes(own.read_bytes())
    assert message in failure(capsys, RUN, "--output", unbroken, options.format(other=other))
    assert find_checkpoint(str(own), unbroken) == own


@pytest.mark.parametrize(("changes", "message"), [
    ({"identity": {"mixed_precision": "bf16"}}, "belongs to another run: mixed-precision 'bf16' there, 'no' here"),
    *(({"content": content}, "no checkpoint of such a run (") for content in (
        {"stage": "one"}, {"stage": 7}, {"step": -1}, {"method": {}}, {"optimizer": None},
        {"optimizer": {"state": 1}}, {"seconds": {"train_seconds": "many"}}, {"corrupt": {}}, {"more": 1},
    )),
], ids=str)
def test_an_edited_checkpoint_is_one_line(changes, message, killed, tmp_path, refused):
    identity, content = runs.load_checkpoint(killed / "checkpoint.pt", VERSION)
    identity, content = identity | changes.get("identity", {}), content | changes.get("content", {})
    runs.save_checkpoint(tmp_path / "odd.pt", VERSION, identity, content)
    told = refused(RUN, "--resume", tmp_path / "odd.pt")
    assert "odd.pt" in told and message in told


def test_an_odd_line_of_a_log_is_one_line(killed, tmp_path, refused):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_text('{"step": "one"}\n' + (killed / "log.jsonl").read_text())
    assert "log.jsonl" in refused(RUN, "--resume", killed / "checkpoint.pt")


def test_a_changed_dataset_of_the_same_size_is_not_resumed(tmp_path, capsys):
    for number in range(70):
        file = tmp_path / "photos" / f"class{number % 2}" / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number, 0, 0)).save(file)
    options = f"{ONE_STEP} --dataset folder --resume auto --output {tmp_path / 'run'} --data-dir"
    here(options, tmp_path / "photos")
    moved = (tmp_path / "photos").rename(tmp_path / "moved")
    here(options, moved)
    (moved / "class0" / "000.png").rename(moved / "class0" / "001.png")
    told = failure(capsys, options, moved)
    assert "belongs to another run: listing (names, sizes and labels of the images) '" in told
