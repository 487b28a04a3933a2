"""The detection task: VOC folders, the order of photos, resuming, the task end to end, wrong input."""

import argparse
import functools
import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import eval_downstream
from burn_timm.errors import BurnError
from burn_timm.evals import detection
from burn_timm.evals.detection import training
from burn_timm.evals.detection.data import counts, read_split, train_batches
from burn_timm.evals.detection.data import test_batches as photos_in_order
from burn_timm.evals.detection.network import build_detector
from burn_timm.files import read_lines
from burn_timm.runs import load_checkpoint

QUICK = [
    "--train-sets", "2007:val", "--min-sizes", "64", "72", "--test-min-size", "64", "--max-size", "128", "--rois", "8",
    "--test-proposals", "10", "--iterations", "2", "--milestones", "1", "--warmup", "1", "--batch-size", "2",
    "--precise-bn", "1", "--log-interval", "1", "--anchor-sizes", "16", "32", "64",
]
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("narrow_pyramid")


@pytest.fixture(scope="module")
def coco128(burn_data, tmp_path_factory):
    """Real photos in VOC's layout: 48 train, 24 val, 25 test."""
    folder = tmp_path_factory.mktemp("coco128")
    with zipfile.ZipFile(f"{burn_data}/detection/coco128_voc.zip") as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith("VOCdevkit")])
    return folder


def three_photos(source, target):
    """VOC2007 with three photos in each list; the first object of each photo is difficult."""
    for part in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (target / part).mkdir(parents=True)
    for name in ("train", "val", "test"):
        identifiers = (source / f"ImageSets/Main/{name}.txt").read_text().split()[:3]
        (target / f"ImageSets/Main/{name}.txt").write_text("\n".join(identifiers) + "\n")
        for identifier in identifiers:
            text = (source / f"Annotations/{identifier}.xml").read_text()
            text = text.replace("<difficult>0</difficult>", "<difficult>1</difficult>", 1)
            (target / f"Annotations/{identifier}.xml").write_text(text)
            (target / f"JPEGImages/{identifier}.jpg").symlink_to(source / f"JPEGImages/{identifier}.jpg")
    return target


@pytest.fixture
def small(coco128, tmp_path):
    """Three photos in each list, to be damaged."""
    return three_photos(coco128 / "VOCdevkit/VOC2007", tmp_path / "data/VOCdevkit/VOC2007")


def options(data_dir, output, *words, model="test_reactnet", workers=0):
    parser = argparse.ArgumentParser()
    detection.add_options(parser)
    args = parser.parse_args([*QUICK, *map(str, words)])
    common = {"model": model, "checkpoint": None, "pretrained": False, "workers": workers, "seed": 3}
    return argparse.Namespace(**common, data_dir=data_dir and str(data_dir), output=str(output), **vars(args))


def run(data_dir, output, *words, **kwargs):
    return detection.evaluate(options(data_dir, output, *words, **kwargs), CPU)


def test_splits_and_boxes_are_those_of_the_files(coco128, caplog):
    splits = {name: read_split(str(coco128), f"2007:{name}") for name in ("train", "val", "test")}
    found = {name: counts(f"2007:{name}", images) for name, images in splits.items()}
    assert [entry["images"] for entry in found.values()] == [48, 24, 25]
    assert sum(entry["boxes"] for entry in found.values()) == 459
    assert "2007:train: 48 images; the published set has 2501" in caplog.text
    image = splits["train"][0]
    text = (coco128 / f"VOCdevkit/VOC2007/Annotations/{image.path.stem}.xml").read_text()
    x1, y1, x2, y2 = image.boxes[0].astype(int).tolist()
    for key, value in (("xmin", x1 + 1), ("ymin", y1 + 1), ("xmax", x2), ("ymax", y2)):
        assert f"<{key}>{value}</{key}>" in text


def replaced(old, new):
    return lambda path: path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(("file", "damage", "words"), [
    ("ImageSets/Main/val.txt", Path.unlink, "val.txt: missing; unpack VOCtrainval_06-Nov-2007.tar"),
    ("ImageSets/Main/val.txt", lambda path: path.write_text(""), "val.txt: lists no image"),
    ("Annotations", shutil.rmtree, "Annotations: missing; unpack"),
    ("JPEGImages", shutil.rmtree, "JPEGImages: missing; unpack"),
    ("JPEGImages/{}.jpg", Path.unlink, ".jpg: missing, though val.txt lists it"),
    ("Annotations/{}.xml", Path.unlink, ".xml: missing, though val.txt lists it"),
    ("Annotations/{}.xml", lambda path: path.write_text(path.read_text()[:200]), ".xml: no VOC annotation"),
    ("Annotations/{}.xml", replaced("xmin>", "left>"), ".xml: no VOC annotation"),
    ("Annotations/{}.xml", replaced("<name>", "<name>flying "), ".xml: no VOC annotation"),
    ("Annotations/{}.xml", replaced("<xmin>", "<xmin>9999"), ".xml: a box without area"),
])
def test_a_damaged_folder_names_the_file(small, file, damage, words):
    path = small / file.format((small / "ImageSets/Main/val.txt").read_text().split()[1])
    damage(path)
    with pytest.raises(BurnError, match=re.escape(words)) as error:
        read_split(str(small.parents[1]), "2007:val")
    assert str(path) in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_that_cannot_be_read_is_named(small, workers):
    images = read_split(str(small.parents[1]), "2007:val")
    images[1].path.unlink()
    images[1].path.write_bytes(b"no photo")
    with pytest.raises(BurnError, match=f"{images[1].path.name}: cannot be read as an image"):
        list(photos_in_order(images, workers))


def test_batches_are_functions_of_seed_and_iteration(small):
    images = read_split(str(small.parents[1]), "2007:train")

    def batches(seed, start, stop, workers=0):
        return [[(pixels.sum().item(), target["boxes"].tolist()) for pixels, target in batch]
                for batch in train_batches(images, 2, seed, start, stop, workers)]

    whole = batches(1, 0, 6)
    assert batches(1, 4, 6, workers=1) == whole[4:]
    assert batches(2, 0, 6) != whole
    flat = [item for batch in whole for item in batch]  # 12 photos are four epochs of three, over batches of two
    for epoch in range(4):
        assert len({item[0] for item in flat[3 * epoch : 3 * epoch + 3]}) == 3


def test_a_flip_moves_the_boxes_with_the_pixels(small):
    images = read_split(str(small.parents[1]), "2007:train")
    plain = {pixels.sum().item(): (pixels, target) for ((pixels, target),) in photos_in_order(images, 0)}
    flipped = 0
    for batch in train_batches(images, 3, 0, 0, 4, 0):
        for pixels, target in batch:
            own, expected = plain[pixels.sum().item()]
            if torch.equal(own, pixels):
                assert torch.equal(target["boxes"], expected["boxes"])
                continue
            flipped += 1
            for (x1, y1, x2, y2), (u1, v1, u2, v2) in zip(
                target["boxes"].int().tolist(), expected["boxes"].int().tolist(), strict=True,
            ):
                assert torch.equal(pixels[:, y1:y2, x1:x2].flip(-1), own[:, v1:v2, u1:u2])
    assert 0 < flipped < 12


FPN = ["--neck", "fpn", "--difficult", "skip", "--anchor-sizes"]


@pytest.mark.parametrize(("weights", "words"), [("folder", []), ("latent", [*FPN, *"16 32 64 128".split()])])
def test_end_to_end(small, tmp_path, weights, words, exports, capsys):
    output = tmp_path / "out" / "result.json"
    eval_downstream.main([
        "detection", *exports[weights], "--data-dir", str(small.parents[1]), "--output", str(output), "--eval-train",
        "--workers", "0", *QUICK, *words,
    ])
    printed, result = capsys.readouterr().out, json.loads(output.read_text())
    assert re.search(r"mAP: \d+\.\d\d; AP50: \d+\.\d\d; AP75: ", printed)
    protocol, dataset, extra = result["protocol"], result["dataset"], result["extra"]
    assert protocol["neck"] == ("fpn" if words else "c4") and protocol["difficult"] == ("skip" if words else "train")
    (train,) = dataset["train"]
    assert train["split"] == "2007:val" and train["difficult"] == 3 and dataset["test"]["images"] == 3
    assert dataset["trained_on"]["boxes"] == train["boxes"] - (3 if words else 0)
    for split in ("test", "train"):
        figures = extra[split]
        assert 0 <= figures["voc"]["map"] <= figures["voc"]["ap50"] <= 1 and 0 <= figures["coco"]["ap"] <= 1
        assert figures["detections"] >= 0
    assert result["value"] == extra["test"]["voc"]["map"]
    log = read_lines(output.with_name("result_log.jsonl"))
    assert [line["iteration"] for line in log] == [1, 2] and log[1]["lr"] == pytest.approx(0.002)
    parts = [value for name, value in log[0].items() if name.startswith("loss_")]
    assert len(parts) == 4 and log[0]["loss"] == pytest.approx(sum(parts), abs=1e-4) and log[0]["grad_norm"] > 0
    assert output.with_name("result_curves.png").stat().st_size > 1000


PLAN = ["--iterations", 5, "--milestones", 1, 4, "--checkpoint-interval", 2]


@pytest.fixture(scope="module")
def finished(coco128, tmp_path_factory):
    """The data, output and result of a run with these words that nothing interrupts."""
    @functools.cache
    def finished(*words):
        folder = tmp_path_factory.mktemp("finished")
        data = three_photos(coco128 / "VOCdevkit/VOC2007", folder / "VOCdevkit/VOC2007").parents[1]
        return data, folder / "run.json", run(data, folder / "run.json", *words, *PLAN)
    return finished


def left_by(output):
    _, checkpoint = load_checkpoint(output.with_name(f"{output.stem}_checkpoint.pt"), training.VERSION)
    return checkpoint["detector"], [line["loss"] for line in read_lines(output.with_name(f"{output.stem}_log.jsonl"))]


@pytest.mark.parametrize("words", [
    (), pytest.param(("--neck", "fpn", "--anchor-sizes", 16, 32, 64, 128), marks=pytest.mark.slow),
])
def test_a_prolonged_killed_and_resumed_run_equals_the_unbroken_one(small, finished, tmp_path, monkeypatch, words):
    output, plan = tmp_path / "broken.json", [*words, *PLAN, "--resume"]
    run(small.parents[1], output, *words, "--iterations", 1, "--milestones")

    def killed(*args):
        for number, batch in enumerate(train_batches(*args)):
            if number == 2:  # one behind the checkpoint
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "train_batches", killed)
        run(small.parents[1], output, *plan)
    torch.manual_seed(99)
    resumed = run(small.parents[1], output, *plan, workers=2)
    _, unbroken, whole = finished(*words)
    (weights, losses), (own_weights, own_losses) = left_by(unbroken), left_by(output)
    assert resumed["extra"]["training"]["resumed_at"] == 2
    assert resumed["extra"]["test"] == whole["extra"]["test"] and own_losses == losses
    assert all(torch.equal(tensor, own_weights[name]) for name, tensor in weights.items())


def test_a_checkpoint_of_another_run_is_refused(finished):
    data, output, _ = finished()
    for words, message in (
        ([], "a run is there already; add --resume"),
        (["--resume", "--rois", 9], "rois 8 there, 9 here"),
        (["--resume", "--milestones"], "milestones .1, 4. there, .. here; choose another --output"),
        (["--resume", "--iterations", 1], "5 iterations are done, more than --iterations 1"),
    ):
        with pytest.raises(BurnError, match=f"run_checkpoint.pt: .*{message}"):
            run(data, output, *PLAN, *words)


@pytest.mark.slow
def test_a_binary_detector_fits_six_photos(coco128, tmp_path):
    source, target = coco128 / "VOCdevkit/VOC2007", tmp_path / "VOCdevkit/VOC2007"
    shutil.copytree(source, target)
    identifiers = ["000000000042", "000000000064", "000000000086", "000000000142", "000000000165", "000000000196"]
    (target / "ImageSets/Main/train.txt").write_text("\n".join(identifiers) + "\n")
    words = ("--train-sets 2007:train --eval-train --iterations 150 --milestones 120 --warmup 10 --batch-size 3 "
             "--opt adam --lr 5e-3 --weight-decay 0 --min-sizes 96 --max-size 160 --test-min-size 96 "
             "--anchor-sizes 16 32 64 96 --rois 32 --test-proposals 50 --precise-bn 20")
    outcome = run(tmp_path, tmp_path / "run.json", *words.split())
    assert outcome["extra"]["train"]["voc"]["ap50"] >= 0.5


def test_precise_batchnorm_is_the_plain_mean_over_the_next_batches(small, tmp_path):
    images = read_split(str(small.parents[1]), "2007:val")
    args = options(small.parents[1], tmp_path / "run.json", "--precise-bn", 3)
    detector = build_detector(args)
    stem, seen = detector.backbone[0], []
    handle = stem.conv.register_forward_hook(lambda module, inputs, output: seen.append(output.mean((0, 2, 3))))
    for batches in (3, 0):  # 0 changes nothing
        args.precise_bn = batches
        layers = training.precise_batchnorm(detector, images, args, CPU)
        assert layers == (batches and sum(isinstance(module, nn.BatchNorm2d) for module in detector.modules()))
        assert len(seen) == 3 and stem.bn.momentum == 0.1
        torch.testing.assert_close(stem.bn.running_mean, torch.stack(seen).mean(0), rtol=1e-4, atol=1e-6)
    handle.remove()


def test_gradients_that_are_not_finite_never_reach_a_checkpoint(small, tmp_path, monkeypatch):
    losses_of = training.training_losses

    def poisoned(detector, *others):
        losses = losses_of(detector, *others)
        zero = (0 * next(detector.parameters()).sum()).sqrt()  # its gradient is not a number
        return {**losses, "loss_classifier": losses["loss_classifier"] + zero}

    monkeypatch.setattr(training, "training_losses", poisoned)
    with pytest.raises(BurnError, match="iteration 0: the norm of the gradients is nan; lower --lr"):
        run(small.parents[1], tmp_path / "run.json", "--checkpoint-interval", 1)
    assert not (tmp_path / "run_checkpoint.pt").exists()


def test_random_weights_where_trained_ones_are_at_hand_are_told_before_the_training(tmp_path, caplog):
    with pytest.raises(SystemExit):  # without --data-dir
        eval_downstream.main(["detection", "--model", "test_resnet", "--output", str(tmp_path / "r.json")])
    assert "--model test_resnet: its weights are random" in caplog.text


@pytest.mark.parametrize(("words", "message"), [
    (["--train-sets", "2007:trainval", "--difficult", "skip"], "--train-sets: no photo has a box"),
    (["--test-set", "2007:val"], "--test-set 2007:val is among --train-sets"),
    (["--milestones", "5", "3"], "--milestones must rise"),
    (["--momentum", "0", "--opt", "adam"], "--momentum has no effect with --opt adam"),
    (["--max-size", "70"], "--max-size 70 is below --min-sizes or --test-min-size"),
    (["--train-sets", "2007:train"], "--test-set 2007:test: 3 of its 3 photos are in --train-sets too"),
    (["--train-sets", "2012:val"], "VOC2012/ImageSets/Main/val.txt: missing; unpack VOCtrainval_11-May-2012"),
    (None, "--data-dir is missing"),
])
def test_options_that_cannot_be_followed(words, message, small, tmp_path):
    shutil.copy(small / "ImageSets/Main/train.txt", small / "ImageSets/Main/test.txt")
    one, *_ = (small / "ImageSets/Main/val.txt").read_text().split()
    (small / "ImageSets/Main/trainval.txt").write_text(one)
    replaced("<difficult>0", "<difficult>1")(small / f"Annotations/{one}.xml")
    with pytest.raises(BurnError, match=message):
        run(small.parents[1] if words else None, tmp_path / "r.json", *(words or ()))
