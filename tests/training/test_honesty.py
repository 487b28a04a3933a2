"""What a run reports is due to training: nothing is gained at learning rate 0, and something is at a good one."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file

import train_burn
from burn_timm.methods import METHODS
from burn_timm.training.options import parse_options

from .runs import SHORT, train


@pytest.mark.slow
def test_learning_rate_zero_gains_nothing(tmp_path):
    output = tmp_path / "run"
    done = train("--lr", "0", "--epochs", "2", "--output", str(output))
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((output / "summary.json").read_text())
    assert {"knn_pixels", "knn_untrained", "knn_teacher", "knn_student"} <= summary.keys()
    assert summary["knn_student"] - summary["knn_untrained"] < 0.01


def test_training_gains_and_the_log_has_its_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    output = tmp_path / "run"
    summary = train_burn.main([*SHORT, "--workers", "0", "--lr", "3e-3", "--epochs", "3", "--output", str(output)])
    assert summary == json.loads((output / "summary.json").read_text())
    assert summary["knn_student"] > summary["knn_untrained"] + 0.1
    lines = [json.loads(line) for line in open(output / "log.jsonl")]
    keys = (
        "step epoch stage loss loss_kl loss_fs lambda grad_norm_student grad_norm_student_head grad_norm_target_head "
        "entropy_of_mean mean_entropy target_information lr images_per_s data_wait"
    )
    for line in lines:
        assert set(keys.split()) <= line.keys() and 0 <= line["data_wait"] <= 1
        information = line["entropy_of_mean"] - line["mean_entropy"]
        assert line["target_information"] == pytest.approx(information, abs=1e-4)
    assert [line["stage"] for line in lines] == sorted((line["stage"] for line in lines), reverse=True)
    assert (output / "curves.png").read_bytes().startswith(b"\x89PNG")
    # The export, loaded by timm alone, is the trained network bit for bit.
    exported = timm.create_model(f"local-dir:{output / 'export'}", pretrained=True).eval()
    latent = timm.create_model("test_reactnet", num_classes=0).eval()
    latent.load_state_dict(load_file(output / "latent.safetensors"))
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(exported(images), latent(images))


def test_options_without_a_teacher_are_refused():
    with pytest.raises(Exception, match="needs --teacher"):
        parse_options(["--method", "burn", "--model", "test_reactnet"])


def test_every_method_has_defaults_that_parse():
    for name in METHODS:
        taught = METHODS[name].teacher_output
        options = SHORT if taught else [o for o in SHORT if o not in ("--teacher", "test_resnet")]
        assert parse_options([*options, "--method", name]).method == name
