"""SVMs on VOC2007 from the command line, and every kind of checkpoint."""

import hashlib
import json
import re
from pathlib import Path

import pytest

import eval_downstream


def run(argv, path, capsys):
    eval_downstream.main([*argv, "--workers", "0", "--threads", "1", "--output", str(path)])
    return json.loads(path.read_text()), capsys.readouterr().out


def test_svm_on_voc07_from_the_command_line(voc, tmp_path, capsys, eval_fails):
    argv = ["svm", "--model", "test_resnet", "--img-size", "64", "--dataset", "voc07", "--data-dir", str(voc),
            "--shots", "1", "96", "--draws", "2", "--costs", "1"]
    result, printed = run(argv, tmp_path / "r.json", capsys)
    assert result["dataset"]["test"] == {"split": "test", "images": 12, "of": 12}
    protocol = result["protocol"]
    assert protocol["transform"]["squash_to"] == [64, 64] and result["extra"]["classes"] == [0, 1]
    assert protocol["pool"] == "2x2" and "k = 96: n/a" in printed and "k = 1: " in printed and "full: " in printed
    assert "[trainval], 48 images" in printed and "[test], 12 images" in printed
    other, _ = run([*argv, "--no-squash", "--pool", "1x1"], tmp_path / "r.json", capsys)
    assert "crop_pct" in other["protocol"]["transform"]
    assert 4 * other["protocol"]["feature_dim"] == protocol["feature_dim"] == 4 * 96
    for changes, message in (
        (["--img-size", "32"], "--pool 2x2 needs feature maps .* at least 2 x 2; the model gives .1, 96, 1, 1.: take"),
        (["--model", "test_vit", "--img-size", "160"], "--pool 2x2 needs feature maps"),
        (["--crop-pct", "0.9"], "the published transform crops nothing away"),
        (["--interpolation", "bicubic"], "the published transform .* is bilinear"),
        (["--engine", "c"], "--pool 2x2 needs the feature maps of a network in torch: .* or add --pool 1x1"),
    ):
        assert re.search(message, eval_fails(*argv, *changes, "--workers", 0, "--output", tmp_path / "r.json"))


@pytest.mark.parametrize("task", ["knn", "finetune"])
def test_every_kind_of_checkpoint(task, exports, tmp_path, capsys):
    """Tasks on frozen features open them in one way, fine-tuning in its own."""
    data = ["--img-size", "32", "--dataset", "digits", "--limit-test", "60"]
    data += ["--limit-train", "200"] if task == "knn" else []
    if task == "finetune":
        data += ["--fraction", "0.03", "--epochs", "1", "--lrs", "0.01", "--head-multipliers", "1"]
    found = {}
    for kind, model in exports.items():
        found[kind], _ = run([task, *model, *data], tmp_path / f"{kind}.json", capsys)
        file = Path(model[-1].removeprefix("local-dir:"))
        file = file / "model.safetensors" if file.is_dir() else file
        assert found[kind]["checkpoint"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert found[kind]["protocol"]["weights"] == f"checkpoint .../{file.name}" or task == "finetune"
        assert 0 <= found[kind]["value"] <= 1 and str(file.parent) not in json.dumps(found[kind])
    assert found["packed"]["value"] == found["folder"]["value"]
    if task == "knn":  # signs and scales are those of the latent weights
        assert found["packed"]["value"] == pytest.approx(found["latent"]["value"], abs=1e-6)
        for kind, name in (("packed", "test_reactnet"), ("float", "test_resnet")):
            other, _ = run([task, "--model", name, *data], tmp_path / "random.json", capsys)
            assert other["value"] != found[kind]["value"] and other["checkpoint"] is None
