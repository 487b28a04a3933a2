"""What is printed under a result's headline, and the same through the command line for svm and detection."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import eval_downstream
from burn_timm.data.voc import CLASSES
from burn_timm.evals.summary import summary

BOX = "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>30</xmax>" \
      "<ymax>28</ymax></bndbox></object>"


def test_each_task_says_what_its_headline_leaves_out():
    best = {"top1": 0.3, "top5": 0.6, "lr": 0.01, "head_multiplier": 10}
    assert summary({"task": "linear", "extra": {"top5": 0.5}}) == ["top-5 50.00 %"]
    assert summary({"task": "knn", "extra": {"seconds": 3}}) == []
    assert summary({"task": "finetune", "extra": {"top5": 0.6, "starts": {"packed": best, "latent": best}}}) == [
        f"from {start} weights: top-1 30.00 %, top-5 60.00 % (learning rate 0.01, head x 10)"
        for start in ("packed", "latent")
    ]
    low = {"1": {"mean": 0.2, "std": 0.03, "draws": [0.1] * 5}, "2": "n/a"}
    assert summary({"task": "svm", "extra": {"low_shot": low, "full": "n/a"}}) == [
        "k = 1: 20.00 ± 3.00 % mAP (5 draws)", "k = 2: n/a", "full: n/a"]
    assert summary({"task": "svm", "extra": {"low_shot": {}, "full": 0.5}}) == ["full: 50.00 % mAP"]
    figures = {"map": 0.1, "ap50": 0.2, "ap75": 0.3}, {"ap": 0.4, "ap50": 0.5, "ap75": 0.6}
    line, = summary({"task": "detection", "extra": {"test": dict(zip(("voc", "coco"), figures, strict=True))}})
    assert line == ("test images: VOC 11-point mAP 10.00 %, AP50 20.00 %, AP75 30.00 %; "
                    "COCO AP 40.00 %, AP50 50.00 %, AP75 60.00 %")


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """VOC2007's layout: digits 0 and 1 as aeroplanes and bicycles, with a box each, some difficult."""
    root = tmp_path_factory.mktemp("voc") / "VOCdevkit" / "VOC2007"
    for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True)
    digits, number = load_digits(), 0
    for split, count in {"trainval": 48, "test": 12}.items():
        marks = []
        for _ in range(count):
            while digits.target[number] > 1:
                number += 1
            kind, name = int(digits.target[number]), f"{number:06}"
            pixels = (digits.images[number] * 15).astype(np.uint8)
            Image.fromarray(pixels).convert("RGB").resize((48, 40)).save(root / "JPEGImages" / f"{name}.jpg")
            difficult = int(number % 11 == 5)
            size = "<size><width>48</width><height>40</height><depth>3</depth></size>"
            (root / "Annotations" / f"{name}.xml").write_text(
                f"<annotation><filename>{name}.jpg</filename>{size}{BOX.format(CLASSES[kind], difficult)}</annotation>")
            marks.append((name, kind, difficult))
            number += 1
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name, *_ in marks))
        for index, kind in enumerate(CLASSES):
            lines = (f"{name} {(0 if hard else 1) if own == index else -1}\n" for name, own, hard in marks)
            (root / "ImageSets" / "Main" / f"{kind}_{split}.txt").write_text("".join(lines))
    return root.parent.parent


def run(argv, path, capsys):
    eval_downstream.main([*argv, "--workers", "0", "--threads", "1", "--output", str(path)])
    return json.loads(path.read_text()), capsys.readouterr().out


def test_svm_on_voc07_from_the_command_line(voc, tmp_path, capsys):
    argv = ["svm", "--model", "test_resnet", "--img-size", "32", "--dataset", "voc07", "--data-dir", str(voc),
            "--train-split", "trainval", "--shots", "1", "96", "--draws", "2", "--costs", "1"]
    result, printed = run(argv, tmp_path / "r.json", capsys)
    assert result["dataset"]["test"] == {"split": "test", "images": 12, "of": 12}
    assert result["protocol"]["transform"]["squash_to"] == [32, 32] and result["extra"]["classes"] == [0, 1]
    assert "k = 96: n/a" in printed and "k = 1: " in printed and " ± " in printed and "full: " in printed
    assert "48 images" in printed and "trainval 5,011, test 4,952" in printed
    other, _ = run([*argv, "--no-squash"], tmp_path / "r.json", capsys)
    assert "crop_pct" in other["protocol"]["transform"]


def test_detection_from_the_command_line(voc, tmp_path, capsys):
    argv = ["detection", "--model", "test_reactnet", "--data-dir", str(voc), "--train-sets", "2007:trainval",
            "--test-set", "2007:test", "--iterations", "2", "--milestones", "1", "--warmup", "1", "--batch-size", "2",
            "--min-sizes", "64", "--max-size", "96", "--test-min-size", "64", "--rois", "8", "--test-proposals", "10",
            "--anchor-sizes", "16", "32", "--precise-bn", "1", "--eval-train"]
    result, printed = run(argv, tmp_path / "d.json", capsys)
    assert result["task"] == "detection" and {"test", "train"} <= set(result["extra"])
    assert "test images: VOC 11-point mAP" in printed and "train images: VOC" in printed and "COCO AP" in printed
