"""What is printed under a result's headline, and the same through the command line for svm and detection."""

import json

import pytest

import eval_downstream
from burn_timm.evals.results import summary


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


def run(argv, path, capsys):
    eval_downstream.main([*argv, "--workers", "0", "--threads", "1", "--output", str(path)])
    return json.loads(path.read_text()), capsys.readouterr().out


def test_svm_on_voc07_from_the_command_line(voc, tmp_path, capsys):
    argv = ["svm", "--model", "test_resnet", "--img-size", "32", "--dataset", "voc07", "--data-dir", str(voc),
            "--train-split", "trainval", "--shots", "1", "96", "--draws", "2", "--costs", "1"]
    result, printed = run(argv, tmp_path / "r.json", capsys)
    assert result["dataset"]["test"] == {"split": "test", "images": 12, "of": 12, "published_images": 4952}
    assert result["protocol"]["transform"]["squash_to"] == [32, 32] and result["extra"]["classes"] == [0, 1]
    assert "k = 96: n/a" in printed and "k = 1: " in printed and " ± " in printed and "full: " in printed
    before = printed.partition("{")[0]  # of the protocol, which needs the features
    assert "[trainval], 48 images" in before and "published: 5,011" in before and "published: 4,952" in before
    other, _ = run([*argv, "--no-squash"], tmp_path / "r.json", capsys)
    assert "crop_pct" in other["protocol"]["transform"]


@pytest.mark.parametrize(("neck", "weights"), [("c4", "packed"), ("fpn", "latent"), ("c4", "float"), ("fpn", "folder")])
def test_detection_from_the_command_line(neck, weights, exports, voc, tmp_path, capsys):
    argv = ["detection", *exports[weights], "--neck", neck, "--data-dir", str(voc), "--train-sets", "2007:trainval",
            "--test-set", "2007:test", "--iterations", "2", "--milestones", "1", "--warmup", "1", "--batch-size", "2",
            "--min-sizes", "64", "--max-size", "96", "--test-min-size", "64", "--rois", "8", "--test-proposals", "10",
            "--precise-bn", "1", "--eval-train", *(["--anchor-sizes", "16", "32"] if neck == "c4" else [])]
    result, printed = run(argv, tmp_path / "d.json", capsys)
    assert result["task"] == "detection" and {"test", "train"} <= set(result["extra"])
    assert "test images: VOC 11-point mAP" in printed and "train images: VOC" in printed and "COCO AP" in printed


@pytest.mark.parametrize("task", ["knn", "linear", "transfer", "svm", "finetune"])
def test_every_task_takes_every_kind_of_checkpoint(task, exports, tmp_path, capsys):
    options = {
        "linear": ["--epochs", "2", "--lrs", "0.1"], "transfer": ["--classifier", "lbfgs"],
        "svm": ["--shots", "1", "--draws", "2", "--costs", "1", "--no-full"],
        "finetune": ["--fraction", "0.2", "--epochs", "1", "--lrs", "0.01", "--head-multipliers", "1",
                     "--sgd-batch-size", "16"],
    }.get(task, [])
    data = ["--img-size", "32", "--dataset", "digits", "--limit-train", "200", "--limit-test", "60", *options]
    found = {}
    for kind, model in exports.items():
        found[kind], _ = run([task, *model, *data], tmp_path / f"{kind}.json", capsys)
        assert found[kind]["checkpoint"]["sha256"] and 0 <= found[kind]["value"] <= 1
    assert found["packed"]["value"] == found["folder"]["value"]
    if task != "finetune":  # signs and scales are those of the latent weights; training goes on from either
        assert found["packed"]["value"] == pytest.approx(found["latent"]["value"], abs=1e-6)
    if task == "knn":
        for kind, name in (("packed", "test_reactnet"), ("float", "test_resnet")):
            other, _ = run([task, "--model", name, *data], tmp_path / "random.json", capsys)
            assert other["value"] != found[kind]["value"] and other["checkpoint"] is None
