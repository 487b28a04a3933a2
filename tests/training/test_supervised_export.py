"""A method that trains a classifier exports it with the network; the figures are of the features."""

import json

import pytest
import timm
import torch

from .runs import train


@pytest.mark.slow  # trains to some accuracy
def test_the_classifier_is_exported_and_predicts(tmp_path, digits):
    output = tmp_path / "run"
    done = train(
        "--method", "supervised", "--teacher", "", "--epochs", "6", "--lr", "3e-3", "--stages", "w1a1",
        "--output", str(output),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in open(output / "log.jsonl")]
    assert lines[-1]["top1"] > lines[0]["top1"]
    model = timm.create_model(f"local-dir:{output / 'export'}", pretrained=True).eval()
    assert model.num_classes == 10
    images, labels = digits
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        predicted = model((images[:500].float() / 255 - mean) / std).argmax(-1)
    assert (predicted == labels[:500]).double().mean() > 0.5
