"""Datasets through train_burn.py: corrupt images, streams, caches, and what a killed run left behind."""

import logging
import time
from functools import partial

import pytest
import torch
from data.pictures import write

from burn_timm.training import stage

from .runs import SHORT, checkpoint, failure, here, log

RUN = [*SHORT, "--stages", "w1a1", "--batch-size", "25", "--epochs", "1", "--val-split", "none"]


def run(tmp_path, *options: str) -> dict:
    return here(*RUN, "--output", str(tmp_path / "run"), *options)


def folder(root, count: int, broken: int) -> list[str]:
    """Options for a folder of images, the first of them broken."""
    for number in range(count):
        write(root / f"class{number % 2}" / f"{number:03d}.png", number, 8, cut=60 if number < broken else 0)
    return ["--dataset", "", "--data-dir", str(root)]


def test_a_corrupt_image_is_skipped_with_one_warning_and_counted(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        summary = run(tmp_path, *folder(tmp_path / "photos", 100, 1), "--epochs", "2")
    warnings = [message for message in caplog.messages if "cannot be read" in message]
    assert len(warnings) == 1 and "class0/000.png" in warnings[0]
    assert summary["corrupt_images"] == 1 and checkpoint(tmp_path / "run")["corrupt"]["indices"] == [0]


def test_more_than_one_percent_of_corrupt_images_is_an_error(tmp_path, capsys):
    line = failure(capsys, *RUN, "--output", str(tmp_path / "run"), *folder(tmp_path / "photos", 100, 2))
    assert "error: at least 2 of 100 images cannot be read, more than 1%: " in line
    assert not (tmp_path / "run" / "export").exists()


def test_labels_are_needed_where_they_are_learnt_only(tmp_path, capsys):
    for number in range(50):
        write(tmp_path / "photos" / f"{number}.png", number)
    photos = ["--dataset", "", "--data-dir", str(tmp_path / "photos"), "--max-steps", "1"]
    supervised = ["--method", "supervised", "--model", "resnet20_cifar", "--stages", "fp", "--img-size", "32"]
    assert "needs labels" in failure(capsys, *supervised, *photos, "--output", str(tmp_path / "labels"))
    assert run(tmp_path, *photos)["dataset"].endswith("50 images, unlabelled")


@pytest.mark.parametrize(("classes", "others", "options", "said"), [
    ("01", "", ["--val-split", "valdiation"], "no split 'valdiation'"),
    ("01", "89", [], "8, 9 not among the 2 classes"),  # the split is there and does not fit
    ("01", "89", ["--val-split", "val"], "8, 9 not among the 2 classes"),
    ("01", "0", ["--val-split", "val"], "unlabelled; name a split with labels"),
    ("0", "01", ["--val-split", "val"], "--val-split val: figures need training images with labels"),
])
def test_a_split_for_figures_that_cannot_be_used(tmp_path, capsys, classes, others, options, said):
    for number in range(30):
        for split, names in (("train", classes), ("val", others)):
            if names:
                write(tmp_path / "photos" / split / names[number % len(names)] / f"{number}.png", number)
    photos = ["--dataset", "", "--data-dir", str(tmp_path / "photos"), "--output", str(tmp_path / "run")]
    line = failure(capsys, *RUN[:-2], *photos, *options)  # without --val-split none
    assert said in line and "--val-split" in line and "none" in line


def test_a_stream_trains_and_says_once_that_its_resumption_is_not_exact(tmp_path, caplog):
    pytest.importorskip("data.test_data_stream").write_shards(tmp_path, 3)
    with caplog.at_level(logging.WARNING):
        run(tmp_path, "--dataset", "wds/digits", "--data-dir", str(tmp_path), "--log-interval", "1")
    assert log(tmp_path / "run", "step") == [1, 2, 3, 4] and (tmp_path / "run" / "export").is_dir()
    warnings = [message for message in caplog.messages if "resumed run" in message]
    assert len(warnings) == 1 and "wds" in warnings[0] and "not the same" in warnings[0]


def test_data_wait_is_the_share_of_time_spent_in_the_loader(tmp_path, monkeypatch):
    def slow(*args, make=stage.make_train_loader, **kwargs):
        for batch in make(*args, **kwargs):
            time.sleep(0.1)
            yield batch

    monkeypatch.setattr(stage, "make_train_loader", slow)
    run(tmp_path, "--max-steps", "6", "--log-interval", "2", "--grad-accum-steps", "2")
    for line in log(tmp_path / "run")[1:]:  # the first has the loader's start in it
        waited = line["data_wait"] * 2 * line["total_batch_size"] / line["images_per_s"]
        assert 4 * 0.1 <= waited + 0.01 < 4 * 0.1 + 1 and line["data_wait"] < 1


def losses_of(tmp_path, name: str, *options: str, steps: int = 50) -> list[float]:
    length = ["--epochs", "25", "--max-steps", str(steps), "--log-interval", "1"]
    run(tmp_path / name, "--view", "burn", *length, *options)
    return log(tmp_path / name / "run", "loss")


@pytest.mark.slow
def test_losses_with_views_made_on_the_device(tmp_path):
    """A rounding of a pixel in ten thousand flips a sign here and there, and that more of them."""
    one, other = losses_of(tmp_path, "workers"), losses_of(tmp_path, "device", "--views-on", "device")
    assert len(one) == 50 and other[0] == pytest.approx(one[0], rel=1e-4)
    assert other == pytest.approx(one, rel=0.05)
    assert losses_of(tmp_path, "two_workers", "--views-on", "device", "--workers", "2") == other


@pytest.mark.parametrize(("views_on", "steps"), [
    ("workers", 6),  # three epochs
    pytest.param("workers", 50, marks=pytest.mark.slow),
    pytest.param("device", 50, marks=pytest.mark.slow),
])
def test_losses_do_not_depend_on_the_cache(tmp_path, views_on, steps):
    """A cold and a warm cache, in memory and in a file, filled by workers or not: the same bits."""
    common = [*folder(tmp_path / "photos", 60, 0), "--views-on", views_on]
    losses = partial(losses_of, tmp_path, steps=steps)
    kept = ["--cache", "disk", "--cache-dir", str(tmp_path / "cache")]
    one = losses("off", *common, "--cache", "off")
    assert len(one) == steps
    assert losses("auto", *common) == losses("memory", *common, "--cache", "memory") == one
    assert losses("cold", *common, *kept, "--workers", "2") == losses("warm", *common, *kept) == one


def test_cache_size_is_part_of_a_run_and_the_cache_is_not(tmp_path, capsys):
    common = [*folder(tmp_path / "photos", 60, 0), "--img-size", "4", "--max-steps", "2", "--resume", "auto"]
    run(tmp_path, *common, "--cache", "memory", "--cache-size", "6")
    assert "cache-size 6 there, None here" in failure(capsys, *RUN, "--output", str(tmp_path / "run"), *common)
    disk = ["--cache", "disk", "--cache-dir", str(tmp_path), "--cache-size", "6"]
    assert run(tmp_path, *common, *disk)["settings"]["cache_size"] == 6


def test_what_a_kill_left_behind_is_cleared_away_at_the_next_start(tmp_path, capsys):
    output = tmp_path / "run"
    left = [".checkpoint.pt.abcdefg1.tmp", ".curves.png.abcdefg1.tmp", ".export.abcdefg1.tmp/config.json"]
    for name in (*left, "notes.tmp", ".export.abcdefg2.old/model.safetensors"):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_bytes(b"half")
    run(tmp_path, "--max-steps", "1")
    assert not [name for name in output.iterdir() if name.name.startswith(".")] and (output / "notes.tmp").exists()
    (output / left[0]).write_bytes(b"of a run that goes on")
    assert "holds a run already" in failure(capsys, *RUN, "--output", str(output), "--max-steps", "1")
    assert (output / left[0]).exists()


def test_reset_target_head_starts_the_second_stage_with_a_fresh_one(tmp_path):
    """At learning rate 0 weights stay as a stage finds them."""
    states = []
    for name, options in (("carried", []), ("reset", ["--reset-target-head"])):
        run(tmp_path / name, "--stages", "w32a1", "w1a1", "--lr", "0", "--max-steps", "1", *options)
        states.append(checkpoint(tmp_path / name / "run")["method"])
    carried, reset = states
    weights = [name for name in carried if name.endswith("weight") and carried[name].ndim > 1]
    differing = {name.partition(".")[0] for name in weights if not torch.equal(carried[name], reset[name])}
    assert differing == {"target_head"} and {name.partition(".")[0] for name in weights} > {"student_head", "backbone"}
