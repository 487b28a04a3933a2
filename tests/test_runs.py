"""The checkpoint, the log and the picture that every long run leaves."""

import hashlib
import io
import random

import pytest
import torch

from burn_timm import runs
from burn_timm.errors import BurnError
from burn_timm.files import read_lines
from burn_timm.runs import LineLog, draw_curves, load_checkpoint, require_same_run, save_checkpoint

IDENTITY = {"options": {"lr": 0.1, "batch_size": 4}, "images": 10}


@pytest.fixture
def saved(tmp_path):
    content = {"step": 3, "weights": {"w": torch.arange(64.0)}}
    save_checkpoint(tmp_path / "checkpoint.pt", 2, IDENTITY, content)
    return tmp_path / "checkpoint.pt"


def test_a_checkpoint_comes_back_as_it_was(saved):
    identity, content = load_checkpoint(saved, 2)
    assert identity == IDENTITY and content["step"] == 3
    assert torch.equal(content["weights"]["w"], torch.arange(64.0))
    assert torch.load(saved, weights_only=True)["version"] == 2  # torch alone reads it too


def test_no_flipped_bit_is_resumed_from(saved):
    whole = saved.read_bytes()
    draw = random.Random(0)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole) - 48)] ^= 1 << draw.randrange(8)
        saved.write_bytes(damaged)
        with pytest.raises(BurnError, match="damaged"):
            load_checkpoint(saved, 2)


@pytest.mark.parametrize("keep", [0, 10, 500, -1])
def test_a_truncated_checkpoint_is_one_line(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(BurnError, match=r"checkpoint\.pt: .*start anew") as told:
        load_checkpoint(saved, 2)
    assert "\n" not in str(told.value)


def test_another_version_is_named(saved):
    with pytest.raises(BurnError, match="version 2, this is version 3"):
        load_checkpoint(saved, 3)
    torch.save({"version": 1, "stage": 0}, saved)  # as earlier releases wrote it
    with pytest.raises(BurnError, match="no checkpoint of such a run and of this release"):
        load_checkpoint(saved, 3)


@pytest.mark.parametrize("saved", [
    [], {"version": "three"}, {"version": 3, "identity": 1, "content": {}},
    {"version": 3, "identity": {}, "content": {1}},
    {"version": 3, "identity": {1: torch.zeros(2), "a": {}}, "content": {}},
], ids=str)
def test_odd_checkpoints_are_one_line(saved, tmp_path):
    data = io.BytesIO()
    torch.save(saved, data)
    path = tmp_path / "odd.pt"
    path.write_bytes(data.getvalue() + runs._MARK + hashlib.sha256(data.getvalue()).digest())
    with pytest.raises(BurnError, match="odd.pt: "):
        require_same_run(path, load_checkpoint(path, 3)[0], {1: torch.ones(2), "images": 3})


def test_every_difference_between_two_runs_is_named(saved):
    require_same_run(saved, IDENTITY, IDENTITY)
    with pytest.raises(BurnError, match=r"images 10 there, 11 here; batch-size 4 there, 8 here"):
        require_same_run(saved, IDENTITY, {"options": {"lr": 0.1, "batch_size": 8}, "images": 11})


def test_a_resumed_log_has_each_step_once(tmp_path):
    path = tmp_path / "log.jsonl"
    log = LineLog(path, 0)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": 1.0 / step, "lr": 0.1, "stage": "a" if step < 2 else "b"})
    log.close()
    log = LineLog(path, 2)
    assert log.last["step"] == 2
    log.write({"step": 3, "loss": 0.5, "lr": 0.1, "stage": "b"})
    log.close()
    assert [line["step"] for line in read_lines(path)] == [1, 2, 3]
    panels = [("loss (log)", ["loss"]), ("schedule", ["lr", "lambda"]), ("nothing", ["x"])]
    draw_curves(path, tmp_path / "curves.png", panels)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
