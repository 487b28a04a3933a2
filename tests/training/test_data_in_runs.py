"""Datasets through train_burn.py: corrupt images, streams, validation splits, what a kill left behind."""

import logging
import time

import pytest
import timm
import torch
from data.pictures import refused, write

from burn_timm.training import stage
from burn_timm.training.data import open_data
from burn_timm.training.options import parse_options

from .runs import ONE_STEP, SHORT, checkpoint, failure, here, log, options_of, words_of

RUN = f"{SHORT} --stages w1a1 --batch-size 25 --epochs 1 --val-split none"


def run(tmp_path, *options: object) -> dict:
    return here(RUN, "--output", tmp_path / "run", *options)


def folder(root, count: int, broken: int) -> str:
    """Options for a folder of images, the first of them broken."""
    for number in range(count):
        write(root / f"class{number % 2}" / f"{number:03d}.png", number, 8, cut=60 if number < broken else 0)
    return f"--dataset '' --data-dir {root}"


def test_one_percent_of_corrupt_images_is_skipped_and_counted_and_more_is_an_error(tmp_path, caplog, capsys):
    summary = run(tmp_path, folder(tmp_path / "photos", 100, 1), "--epochs 2")
    warnings = [message for message in caplog.messages if "cannot be read" in message]
    assert len(warnings) == 1 and "class0/000.png" in warnings[0]
    assert summary["corrupt_images"] == 1 and checkpoint(tmp_path / "run")["corrupt"]["indices"] == [0]
    line = failure(capsys, RUN, folder(tmp_path / "photos", 100, 2), "--output", tmp_path / "more")
    assert "error: at least 2 of 100 images cannot be read, more than 1%: " in line
    assert not (tmp_path / "more" / "export").exists()


def test_a_supervised_export_has_the_names_of_its_classes(tmp_path):
    options = "--model test_resnet --stages fp --batch-size 10 --max-steps 1 --val-split none --output"
    here(options_of("supervised"), folder(tmp_path / "photos", 20, 0), options, tmp_path / "run")
    model = timm.create_model(f"local-dir:{tmp_path / 'run' / 'export'}", pretrained=True)
    assert model.num_classes == 2 and model.pretrained_cfg["label_names"] == ["class0", "class1"]


FIGURES = f"{SHORT} --batch-size 25 --dataset ''"


@pytest.mark.parametrize(("classes", "others", "said"), [
    ("01", "01", None),
    ("01", "89", "8, 9 not among the 2 classes"),
    ("01", "0", "unlabelled"),
    ("0", "01", None),  # nothing to measure
])
def test_a_default_validation_split_that_does_not_fit_is_told_of_and_not_measured(
    tmp_path, caplog, classes, others, said,
):
    photos(tmp_path, train=classes, val=others)
    data = open_data(parse_options(words_of(FIGURES, "--data-dir", tmp_path)), tell=True)
    told = [message for message in caplog.messages if "no kNN figures" in message]
    assert len(told) == (said is not None) and (said is None or said in told[0] and "--val-split" in told[0])
    assert (data.val is not None) == (classes == others)


@pytest.mark.parametrize(("classes", "others", "named", "said"), [
    ("01", "89", "--val-split val", "8, 9 not among the 2 classes"),
    ("01", "0", "--val-split val", "unlabelled; name a split with labels"),
    ("0", "01", "--val-split val", "--val-split val: figures need training images with labels"),
    ("0", "01", "--method supervised", "needs labels"),
    ("01", "01", "--knn-steps 1 --val-split none", "--knn-steps needs labels"),
])
def test_labels_that_are_asked_for_and_cannot_be_used(tmp_path, classes, others, named, said):
    photos(tmp_path, train=classes, val=others)
    options = options_of("supervised") + " --dataset ''" if "supervised" in named else FIGURES
    with refused(said):
        open_data(parse_options(words_of(options, "--data-dir", tmp_path, named)), tell=False)


def photos(folder, **classes: str) -> None:
    """30 images in the classes of each split, named by one letter; those of one class are unlabelled."""
    for number in range(30):
        for split, names in classes.items():
            write(folder / split / names[number % len(names)] / f"{number}.png", number + 100 * (split == "val"))


def test_a_stream_trains_and_says_once_that_its_resumption_is_not_exact(tmp_path, caplog, refused):
    pytest.importorskip("data.test_data_stream").write_shards(tmp_path, 3)
    supervised = "--model test_resnet --method supervised --dataset wds/digits --data-dir"
    assert "--method supervised needs labels, and no stream; wds" in refused(supervised, tmp_path)
    with caplog.at_level(logging.WARNING):
        run(tmp_path, "--dataset wds/digits --log-interval 1 --data-dir", tmp_path)
    assert log(tmp_path / "run", "step") == [1, 2, 3, 4] and (tmp_path / "run" / "export").is_dir()
    warnings = [message for message in caplog.messages if "resumed" in message]
    assert len(warnings) == 1 and "wds" in warnings[0] and "not the same" in warnings[0]


def test_data_wait_is_the_share_of_time_spent_in_the_loader(tmp_path, monkeypatch):
    def slow(*args, make=stage.make_train_loader, **kwargs):
        for batch in make(*args, **kwargs):
            time.sleep(0.1)
            yield batch

    monkeypatch.setattr(stage, "make_train_loader", slow)
    run(tmp_path, "--max-steps 4 --log-interval 2 --grad-accum-steps 2")
    for line in log(tmp_path / "run")[1:]:  # the first has the loader's start in it
        waited = line["data_wait"] * 2 * line["total_batch_size"] / line["images_per_s"]
        assert 4 * 0.1 <= waited + 0.01 < 4 * 0.1 + 1 and line["data_wait"] < 1


def test_what_a_kill_left_behind_is_cleared_away_at_the_next_start(tmp_path, capsys):
    output = tmp_path / "run"
    left = [".checkpoint.pt.abcdefg1.tmp", ".curves.png.abcdefg1.tmp", ".export.abcdefg1.tmp/config.json"]
    for name in (*left, "notes.tmp", ".export.abcdefg2.old/model.safetensors"):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_bytes(b"half")
    here(ONE_STEP, "--output", output)
    assert not [name for name in output.iterdir() if name.name.startswith(".")] and (output / "notes.tmp").exists()
    (output / left[0]).write_bytes(b"of a run that goes on")
    assert "holds a run already" in failure(capsys, ONE_STEP, "--output", output)
    assert (output / left[0]).exists()


def test_reset_target_head_starts_the_second_stage_with_a_fresh_one(tmp_path):
    """At learning rate 0 weights stay as a stage finds them."""
    states = []
    for name, option in (("carried", ""), ("reset", "--reset-target-head")):
        run(tmp_path / name, "--stages w32a1 w1a1 --lr 0 --max-steps 1", option)
        states.append(checkpoint(tmp_path / name / "run")["method"])
    carried, reset = states
    weights = [name for name in carried if name.endswith("weight") and carried[name].ndim > 1]
    differing = {name.partition(".")[0] for name in weights if not torch.equal(carried[name], reset[name])}
    assert differing == {"target_head"} and {name.partition(".")[0] for name in weights} > {"student_head", "backbone"}
