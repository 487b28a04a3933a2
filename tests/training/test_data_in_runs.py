"""Datasets through train_burn.py: corrupt images, streams, and what a killed save left behind."""

import io
import json
import logging
import tarfile
import time
from functools import partial

import pytest
import torch
from data.pictures import png, write

import train_burn

from .runs import SHORT


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def run(tmp_path, *options: str) -> dict:
    return train_burn.main([
        *SHORT, "--workers", "0", "--stages", "w1a1", "--batch-size", "25", "--epochs", "1", "--val-split", "none",
        "--output", str(tmp_path / "run"), *options,
    ])


def folder(root, count: int, broken: int) -> str:
    for number in range(count):
        write(root / f"class{number % 2}" / f"{number:03d}.png", number, 8, cut=60 if number < broken else 0)
    return str(root)


def test_a_corrupt_image_is_skipped_with_one_warning_and_counted(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        summary = run(tmp_path, "--dataset", "", "--data-dir", folder(tmp_path / "photos", 100, 1), "--epochs", "2")
    warnings = [record.message for record in caplog.records if "cannot be read" in record.message]
    assert len(warnings) == 1 and "class0/000.png" in warnings[0] and "truncated" in warnings[0]
    assert summary["corrupt_images"] == 1
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["corrupt"]["indices"] == [0]


def test_more_than_one_percent_of_corrupt_images_is_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, "--dataset", "", "--data-dir", folder(tmp_path / "photos", 100, 2))
    error = "train_burn.py: error: at least 2 of 100 images cannot be read, more than 1%: "
    assert error in capsys.readouterr().err
    assert not (tmp_path / "run" / "export").exists()


def test_a_partly_labelled_split_trains_without_its_labels_only(tmp_path, capsys):
    """A class of -1 reached cross-entropy."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    images, labels = [{"bytes": png(number)} for number in range(50)], [0, 1] * 24 + [-1, None]
    (tmp_path / "set").mkdir()
    table = datasets.Dataset.from_dict({"image": images, "label": labels}, features)
    table.to_parquet(tmp_path / "set" / "train.parquet")
    common = ["--dataset", f"hfds/{tmp_path / 'set'}", "--data-dir", str(tmp_path / "cache"), "--max-steps", "1"]
    with pytest.raises(SystemExit):
        train_burn.main([
            *common, "--method", "supervised", "--model", "resnet20_cifar", "--stages", "fp", "--img-size", "32",
            "--batch-size", "25", "--output", str(tmp_path / "labels"),
        ])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "needs labels" in error and "2 images without a label" in error
    assert run(tmp_path, *common)["dataset"].endswith("2 classes, 2 images without a label")


def test_a_stream_trains_and_says_once_that_its_resumption_is_not_exact(tmp_path, caplog):
    pytest.importorskip("webdataset")
    with tarfile.open(tmp_path / "digits-0000.tar", "w") as tar:
        for number in range(100):
            for extension, data in (("png", png(number)), ("cls", b"3")):
                info = tarfile.TarInfo(f"{number:05d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    split = dict(name="train", filenames=["digits-0000.tar"], shard_lengths=[100], num_samples=100)
    (tmp_path / "_info.json").write_text(json.dumps({"splits": {"train": split}}))
    with caplog.at_level(logging.WARNING):
        summary = run(tmp_path, "--dataset", "wds/digits", "--data-dir", str(tmp_path), "--log-interval", "1")
    assert [line["step"] for line in map(json.loads, open(tmp_path / "run" / "log.jsonl"))] == [1, 2, 3, 4]
    assert summary["bytes_exported"] > 0
    warnings = [record.message for record in caplog.records if "resumed run" in record.message]
    assert len(warnings) == 1 and "wds" in warnings[0] and "not the same" in warnings[0]


def test_data_wait_is_the_share_of_time_spent_in_the_loader(tmp_path, monkeypatch, capsys):
    make = train_burn.make_train_loader

    def slow(*args, **kwargs):
        for batch in make(*args, **kwargs):
            time.sleep(0.3)
            yield batch

    monkeypatch.setattr(train_burn, "make_train_loader", slow)
    run(tmp_path, "--max-steps", "6", "--log-interval", "2", "--grad-accum-steps", "2")
    lines = [json.loads(line) for line in open(tmp_path / "run" / "log.jsonl")]
    assert len(lines) == 3
    for line in lines[1:]:  # the first has the loader's start in it
        waited = line["data_wait"] * 2 * line["total_batch_size"] / line["images_per_s"]
        assert 4 * 0.3 <= waited + 0.01 < 4 * 0.3 + 1 and line["data_wait"] < 1
    assert "img/s, data wait" in capsys.readouterr().err


def losses_of(tmp_path, name: str, *options: str, steps: int = 50) -> list[float]:
    length = ["--epochs", "9", "--max-steps", str(steps), "--log-interval", "1"]
    run(tmp_path / name, "--view", "burn", *length, *options)
    return [json.loads(line)["loss"] for line in open(tmp_path / name / "run" / "log.jsonl")]


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
    losses = partial(losses_of, steps=steps)
    files = folder(tmp_path / "photos", 60, 0)
    common = ["--dataset", "", "--data-dir", files, "--views-on", views_on, "--epochs", "25"]
    kept = ["--cache", "disk", "--cache-dir", str(tmp_path / "cache")]
    one = losses(tmp_path, "off", *common, "--cache", "off")
    assert len(one) == steps
    assert losses(tmp_path, "auto", *common) == losses(tmp_path, "memory", *common, "--cache", "memory") == one
    assert losses(tmp_path, "cold", *common, *kept, "--workers", "2") == losses(tmp_path, "warm", *common, *kept) == one


def test_cache_size_is_part_of_a_run_and_the_cache_is_not(tmp_path, capsys):
    files = folder(tmp_path / "photos", 60, 0)
    common = ["--dataset", "", "--data-dir", files, "--img-size", "4", "--max-steps", "2", "--resume", "auto"]
    run(tmp_path, *common, "--cache", "memory", "--cache-size", "6", "--stages", "w32a1")
    with pytest.raises(SystemExit):
        run(tmp_path, *common, "--stages", "w32a1")
    assert "--cache-size 6 there, None here" in capsys.readouterr().err
    disk = ["--cache", "disk", "--cache-dir", str(tmp_path), "--cache-size", "6"]
    assert run(tmp_path, *common, *disk, "--stages", "w32a1")["settings"]["cache_size"] == 6


def test_a_killed_save_is_cleared_away_at_the_next_start(tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    for name in (".checkpoint.pt.abc.tmp", ".checkpoint.pt.def.tmp", "notes.tmp"):
        (output / name).write_bytes(b"half")
    run(tmp_path, "--max-steps", "1")
    assert not list(output.glob(".checkpoint.pt.*")) and (output / "notes.tmp").exists()
    (output / ".checkpoint.pt.ghi.tmp").write_bytes(b"of a run that goes on")
    with pytest.raises(SystemExit):
        run(tmp_path, "--max-steps", "1")  # refused: the folder holds a run
    assert (output / ".checkpoint.pt.ghi.tmp").exists()


def test_reset_target_head_starts_the_second_stage_with_a_fresh_one(tmp_path):
    """At learning rate 0 weights stay as a stage finds them."""
    states = []
    for name, options in (("carried", []), ("reset", ["--reset-target-head"])):
        run(tmp_path / name, "--stages", "w32a1", "w1a1", "--lr", "0", "--max-steps", "1", *options)
        states.append(torch.load(tmp_path / name / "run" / "checkpoint.pt", weights_only=True)["method"])
    carried, reset = states
    weights = [name for name in carried if name.endswith("weight") and carried[name].ndim > 1]
    differing = {name.partition(".")[0] for name in weights if not torch.equal(carried[name], reset[name])}
    assert differing == {"target_head"} and {name.partition(".")[0] for name in weights} > {"student_head", "backbone"}
