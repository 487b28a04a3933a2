"""The detection task: VOC folders, the order of photos, resuming, the task end to end, what is refused."""

import argparse
import json
import shutil
import zipfile

import pytest
import torch
from PIL import Image
from torch import nn

from burn_timm.errors import BurnError
from burn_timm.evals import detection
from burn_timm.evals.detection import training
from burn_timm.evals.detection.batches import test_batches as photos_in_order
from burn_timm.evals.detection.batches import train_batches, trainable
from burn_timm.evals.detection.logs import read_log
from burn_timm.evals.detection.network import build_detector
from burn_timm.evals.detection.training import lr_at
from burn_timm.evals.detection.voc import counts, read_split
from burn_timm.evals.results import write_result

QUICK = [
    "--train-sets", "2007:val", "--min-sizes", "64", "72", "--test-min-size", "64", "--max-size", "128", "--rois", "8",
    "--test-proposals", "10", "--iterations", "2", "--milestones", "1", "--warmup", "1", "--batch-size", "2",
    "--precise-bn", "1", "--log-interval", "1", "--anchor-sizes", "16", "32", "64",
]
FPN_ANCHORS = ["--anchor-sizes", "16", "32", "64", "128", "256"]


@pytest.fixture(scope="module")
def coco128(burn_data, tmp_path_factory):
    """Real photos in VOC's layout: 48 train, 24 val, 25 test."""
    folder = tmp_path_factory.mktemp("coco128")
    with zipfile.ZipFile(f"{burn_data}/detection/coco128_voc.zip") as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith("VOCdevkit")])
    return folder


@pytest.fixture
def small(coco128, tmp_path):
    """Lists of three photos each, to be damaged: photos are linked, annotations copied."""
    target = tmp_path / "data" / "VOCdevkit" / "VOC2007"
    source = coco128 / "VOCdevkit" / "VOC2007"
    for part in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (target / part).mkdir(parents=True)
    for name in ("train", "val", "test"):
        identifiers = (source / f"ImageSets/Main/{name}.txt").read_text().split()[:3]
        (target / f"ImageSets/Main/{name}.txt").write_text("\n".join(identifiers) + "\n")
        for identifier in identifiers:
            shutil.copy(source / f"Annotations/{identifier}.xml", target / "Annotations")
            (target / f"JPEGImages/{identifier}.jpg").symlink_to(source / f"JPEGImages/{identifier}.jpg")
    return target


def options(data_dir, output, *words, model="test_reactnet"):
    parser = argparse.ArgumentParser()
    detection.add_options(parser)
    args = parser.parse_args([*QUICK, *map(str, words)])
    common = {"model": model, "checkpoint": None, "pretrained": False, "workers": 0, "seed": 3}
    return argparse.Namespace(**common, data_dir=str(data_dir), output=str(output), **vars(args))


def run(data_dir, output, *words, **kwargs):
    return detection.evaluate(options(data_dir, output, *words, **kwargs), torch.device("cpu"))


def weights(output):
    path = output.with_name(f"{output.stem}_checkpoint.pt")
    return torch.load(path, weights_only=True)


def test_splits_as_the_readme_counts_them(coco128, caplog):
    names = ("train", "val", "test")
    found = {name: counts(f"2007:{name}", read_split(str(coco128), f"2007:{name}")) for name in names}
    assert [entry["images"] for entry in found.values()] == [48, 24, 25]
    assert sum(entry["boxes"] for entry in found.values()) == 459
    assert found["train"]["published_images"] == 2501
    assert "2007:train: 48 images; the published set has 2501" in caplog.text
    inside = read_split(str(coco128 / "VOCdevkit"), "2007:test")
    assert len(inside) == 25


def test_boxes_are_continuous_and_inside_their_photo(coco128):
    image = read_split(str(coco128), "2007:train")[0]
    text = (coco128 / f"VOCdevkit/VOC2007/Annotations/{image.path.stem}.xml").read_text()
    x1, y1, x2, y2 = image.boxes[0].astype(int).tolist()
    for key, value in (("xmin", x1 + 1), ("ymin", y1 + 1), ("xmax", x2), ("ymax", y2)):
        assert f"<{key}>{value}</{key}>" in text
    width, height = Image.open(image.path).size
    assert (image.boxes >= 0).all() and (image.boxes <= [width, height, width, height]).all()


def test_difficult_boxes_are_left_out_of_training(small):
    xml = next(iter(sorted((small / "Annotations").iterdir())))
    text = xml.read_text().replace("<difficult>0</difficult>", "<difficult>1</difficult>")
    xml.write_text(text)
    name = next(name for name in ("train", "val", "test")
                if xml.stem in (small / f"ImageSets/Main/{name}.txt").read_text())
    images = read_split(str(small.parents[1]), f"2007:{name}")
    hard = next(image for image in images if image.path.stem == xml.stem)
    assert len(hard.difficult) == text.count("<object>") and hard.difficult.all()
    assert counts(f"2007:{name}", images)["difficult"] >= len(hard.difficult)
    kept = trainable(images, difficult=False)
    assert xml.stem not in [image.path.stem for image in kept] and not any(image.difficult.any() for image in kept)
    assert len(trainable(images, difficult=True)) == 3


@pytest.mark.parametrize(("part", "message"), [
    ("ImageSets/Main/test.txt", "test.txt: missing; unpack VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar"),
    ("Annotations", "Annotations: missing; unpack"),
    ("JPEGImages", "JPEGImages: missing; unpack"),
])
def test_a_partial_folder_names_what_is_missing(small, part, message):
    path = small / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(BurnError, match=message.replace(".", r"\.")):
        read_split(str(small.parents[1]), "2007:test")


def test_a_missing_photo_or_a_damaged_file_is_named(small, tmp_path):
    first, second, third = (small / "ImageSets/Main/val.txt").read_text().split()
    with pytest.raises(BurnError, match="VOC2012/ImageSets/Main/trainval.txt: missing; unpack VOCtrainval_11-May-2012"):
        read_split(str(small.parents[1]), "2012:trainval")
    photo = small / f"JPEGImages/{second}.jpg"
    photo.unlink()
    with pytest.raises(BurnError, match=f"{second}.jpg: missing, though val.txt lists it"):
        read_split(str(small.parents[1]), "2007:val")
    photo.write_bytes(b"no photo")
    with pytest.raises(BurnError, match=f"{second}.jpg: cannot be read as an image"):
        run(small.parents[1], tmp_path / "result.json")
    xml = small / f"Annotations/{third}.xml"
    good = xml.read_text()
    for bad in (good[:200], good.replace("<xmin>", "<left>").replace("</xmin>", "</left>"),
                good.replace("<name>", "<name>flying ")):
        xml.write_text(bad)
        with pytest.raises(BurnError, match=f"{third}.xml: no VOC annotation"):
            read_split(str(small.parents[1]), "2007:val")
    xml.write_text(good.replace("<xmin>", "<xmin>9999"))
    with pytest.raises(BurnError, match=f"{third}.xml: a box without area"):
        read_split(str(small.parents[1]), "2007:val")


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
    plain = {pixels.double().sum().item(): (pixels, target) for batch in photos_in_order(images, 2, 0)
             for pixels, target in batch}
    flipped = 0
    for batch in train_batches(images, 3, 0, 0, 4, 0):
        for pixels, target in batch:
            own, expected = plain[pixels.double().sum().item()]
            if torch.equal(own, pixels):
                assert torch.equal(target["boxes"], expected["boxes"])
                continue
            flipped += 1
            for (x1, y1, x2, y2), (u1, v1, u2, v2) in zip(
                target["boxes"].int().tolist(), expected["boxes"].int().tolist(), strict=True,
            ):
                assert torch.equal(pixels[:, y1:y2, x1:x2].flip(-1), own[:, v1:v2, u1:u2])
    assert 0 < flipped < 12


def test_learning_rate_as_published():
    rates = [lr_at(i, 0.02, 100, (18000, 22000)) for i in (0, 50, 100, 17999, 18000, 21999, 22000)]
    assert rates == pytest.approx([2e-5, 0.01001, 0.02, 0.02, 0.002, 0.002, 0.0002])


@pytest.mark.parametrize(("model", "words"), [("test_reactnet", []), ("test_resnet", ["--neck", "fpn", *FPN_ANCHORS])])
def test_end_to_end(small, tmp_path, model, words):
    output, told = tmp_path / "out" / "result.json", []
    args = options(small.parents[1], output, "--eval-train", *words, model=model)
    outcome = detection.evaluate(args, torch.device("cpu"), lambda *news: told.append(news))
    assert told == [(outcome["protocol"], outcome["dataset"])]
    assert outcome["dataset"]["test"]["images"] == 3 and outcome["dataset"]["train"][0]["split"] == "2007:val"
    assert outcome["protocol"]["iterations"] == 2
    assert outcome["protocol"]["neck"] == ("fpn" if "fpn" in words else "c4")
    for split in ("test", "train"):
        figures = outcome["extra"][split]
        assert 0 <= figures["voc"]["map"] <= figures["voc"]["ap50"] <= 1 and 0 <= figures["coco"]["ap"] <= 1
    assert outcome["value"] == outcome["extra"]["test"]["voc"]["map"]
    log = read_log(output.with_name("result_log.jsonl"))
    assert [line["iteration"] for line in log] == [1, 2] and log[1]["lr"] == pytest.approx(0.002)
    parts = [value for name, value in log[0].items() if name.startswith("loss_")]
    assert len(parts) == 4 and log[0]["loss"] == pytest.approx(sum(parts), abs=1e-4)
    assert output.with_name("result_curves.png").stat().st_size > 1000
    write_result(output, task="detection", model=model, checkpoint=None, command=["detection"], **outcome)
    assert json.loads(output.read_text())["extra"]["train"]["detections"] >= 0


@pytest.mark.parametrize("neck", ["c4", pytest.param("fpn", marks=pytest.mark.slow)])
def test_a_killed_run_resumes_to_the_same_detector(small, tmp_path, monkeypatch, neck):
    words = ["--neck", neck, "--iterations", 5, "--milestones", 4, "--checkpoint-interval", 2]
    words += FPN_ANCHORS[:-1] if neck == "fpn" else []
    whole = run(small.parents[1], tmp_path / "whole.json", *words)

    def killed(*args):
        for number, batch in enumerate(train_batches(*args)):
            if number == 3:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(training, "train_batches", killed)
    with pytest.raises(KeyboardInterrupt):
        run(small.parents[1], tmp_path / "broken.json", *words)
    assert weights(tmp_path / "broken.json")["iteration"] == 2
    monkeypatch.undo()
    torch.manual_seed(99)
    resumed = run(small.parents[1], tmp_path / "broken.json", *words, "--resume")
    assert resumed["extra"]["training"]["resumed_at"] == 2
    ours, theirs = weights(tmp_path / "broken.json"), weights(tmp_path / "whole.json")
    for name, tensor in theirs["detector"].items():
        assert torch.equal(tensor, ours["detector"][name]), name
    assert resumed["extra"]["test"] == whole["extra"]["test"]
    broken, unbroken = (read_log(tmp_path / f"{name}_log.jsonl") for name in ("broken", "whole"))
    assert [line["loss"] for line in broken] == [line["loss"] for line in unbroken]


def test_a_prolonged_run_equals_one_that_was_planned_so(small, tmp_path):
    plan = ["--iterations", 4, "--milestones", 1, 3]
    run(small.parents[1], tmp_path / "planned.json", *plan)
    run(small.parents[1], tmp_path / "run.json", "--iterations", 2)
    run(small.parents[1], tmp_path / "run.json", *plan, "--resume")
    ours, theirs = weights(tmp_path / "run.json")["detector"], weights(tmp_path / "planned.json")["detector"]
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())


@pytest.mark.slow
def test_a_binary_detector_fits_six_photos(coco128, small, tmp_path):
    identifiers = ["000000000042", "000000000064", "000000000086", "000000000142", "000000000165", "000000000196"]
    (small / "ImageSets/Main/train.txt").write_text("\n".join(identifiers) + "\n")
    for identifier in identifiers:
        for part, ending in (("Annotations", "xml"), ("JPEGImages", "jpg")):
            path = small / f"{part}/{identifier}.{ending}"
            path.unlink(missing_ok=True)
            path.symlink_to(coco128 / f"VOCdevkit/VOC2007/{part}/{identifier}.{ending}")
    words = [
        "--train-sets", "2007:train", "--eval-train", "--iterations", 150, "--milestones", 120, "--warmup", 10,
        "--batch-size", 3, "--opt", "adam", "--lr", 5e-3, "--weight-decay", 0, "--min-sizes", 96, "--max-size", 160,
        "--test-min-size", 96, "--anchor-sizes", 16, 32, 64, 96, "--rois", 32, "--test-proposals", 50,
        "--precise-bn", 20,
    ]
    outcome = run(small.parents[1], tmp_path / "run.json", *words)
    assert outcome["extra"]["train"]["voc"]["ap50"] >= 0.5


def test_a_checkpoint_of_another_run_is_refused(small, tmp_path):
    output = tmp_path / "run.json"
    run(small.parents[1], output)
    with pytest.raises(BurnError, match="run_checkpoint.pt: a run is there already; add --resume"):
        run(small.parents[1], output)
    for words, message in (
        (["--rois", 9], "rois 8 there, 9 here"),
        (["--milestones", "--lr", 0.01], "milestones .1. there, .. here; lr 0.02 there, 0.01 here"),
        (["--iterations", 1], "2 iterations are done, more than --iterations 1"),
    ):
        with pytest.raises(BurnError, match=message):
            run(small.parents[1], output, *words, "--resume")
    path = tmp_path / "run_checkpoint.pt"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(BurnError, match="run_checkpoint.pt: not a readable checkpoint of a detector"):
        run(small.parents[1], output, "--resume")


def test_precise_batchnorm_is_the_plain_mean_over_batches(small, tmp_path):
    images = trainable(read_split(str(small.parents[1]), "2007:val"), difficult=False)
    args = options(small.parents[1], tmp_path / "run.json", "--precise-bn", 3, "--bn", "train")
    detector = build_detector(args)
    stem, seen = detector.backbone[0], []
    handle = stem.conv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    layers = training.precise_batchnorm(detector, images, args, torch.device("cpu"))
    handle.remove()
    assert layers == sum(isinstance(module, nn.BatchNorm2d) for module in detector.modules())
    assert len(seen) == 3 and stem.bn.momentum == 0.1
    expected = torch.stack([output.mean((0, 2, 3)) for output in seen]).mean(0)
    torch.testing.assert_close(stem.bn.running_mean, expected, rtol=1e-4, atol=1e-6)
    spread = torch.stack([output.transpose(0, 1).flatten(1).var(1) for output in seen]).mean(0)
    torch.testing.assert_close(stem.bn.running_var, spread, rtol=1e-4, atol=1e-6)
    args.precise_bn = 0
    assert training.precise_batchnorm(detector, images, args, torch.device("cpu")) == 0
    torch.testing.assert_close(stem.bn.running_mean, expected, rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_not_finite_ends_the_run(small, tmp_path):
    words = ("--lr", 1e30, "--iterations", 5, "--warmup", 0, "--milestones")
    with pytest.raises(BurnError, match=r"iteration \d: the loss is (nan|inf); lower --lr"):
        run(small.parents[1], tmp_path / "run.json", *words)


@pytest.mark.parametrize(("words", "message"), [
    (["--train-sets", "2007:all"], "--train-sets 2007:all: expected YEAR:SET, one of 2007:train"),
    (["--test-set", "2012:test"], "--test-set 2012:test: expected YEAR:SET"),
    (["--test-set", "2007:val"], "--test-set 2007:val is among --train-sets"),
    (["--iterations", "0"], "--iterations must be at least 1"),
    (["--milestones", "5", "3"], "--milestones must be positive and rise"),
    (["--lr", "0"], "--lr must be positive"),
    (["--warmup", "-1"], "--warmup must not be negative"),
    (["--max-size", "70"], "--max-size 70 is below --min-sizes or --test-min-size"),
    (["--anchor-sizes", "0"], "--anchor-sizes must be positive"),
])
def test_options_that_cannot_be_followed(words, message, tmp_path):
    with pytest.raises(BurnError, match=message):
        detection.check(options(tmp_path, tmp_path / "r.json", *words))


def test_photos_of_the_training_sets_are_not_tested_on(small, tmp_path):
    names = (small / "ImageSets/Main/val.txt").read_text()
    (small / "ImageSets/Main/test.txt").write_text(names)
    with pytest.raises(BurnError, match="--test-set 2007:test: 3 of its 3 photos are in --train-sets too"):
        run(small.parents[1], tmp_path / "r.json")


def test_difficult_boxes_are_trained_on_as_published_and_skipped_on_demand(small, tmp_path):
    for xml in sorted((small / "Annotations").iterdir()):
        if xml.stem in (small / "ImageSets/Main/val.txt").read_text():
            xml.write_text(xml.read_text().replace("<difficult>0</difficult>", "<difficult>1</difficult>", 1))
    images = read_split(str(small.parents[1]), "2007:val")
    boxes, hard = (sum(len(image.boxes) for image in images), sum(int(image.difficult.sum()) for image in images))
    published = run(small.parents[1], tmp_path / "a.json")
    skipped = run(small.parents[1], tmp_path / "b.json", "--difficult", "skip")
    assert hard >= 3 and published["dataset"]["trained_on"]["boxes"] == boxes
    assert published["protocol"]["difficult"] == "train" and skipped["protocol"]["difficult"] == "skip"
    assert skipped["dataset"]["trained_on"]["boxes"] == boxes - hard


def test_no_folder_and_no_pycocotools(tmp_path, monkeypatch):
    args = options(tmp_path, tmp_path / "r.json")
    args.data_dir = None
    with pytest.raises(BurnError, match="--data-dir is missing"):
        detection.check(args)
    monkeypatch.setitem(__import__("sys").modules, "pycocotools.cocoeval", None)
    with pytest.raises(BurnError, match=r"pip install 'burn-timm\[detection\]'"):
        detection.check(options(tmp_path, tmp_path / "r.json"))
