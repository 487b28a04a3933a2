"""The accuracies that a run reports, during training and after it, are due to training and those of its export."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file

from burn_timm.data.datasets import open_dataset
from burn_timm.training import measure
from burn_timm.training.options import parse_options
from eval_downstream import main as evaluate

from .runs import SHORT, failure, here, log

RUN = [*SHORT, "--stages", "w1a1", "--max-steps", "6", "--log-interval", "4"]


def test_figures_during_training_are_those_of_the_export_and_change_nothing(tmp_path):
    here(*RUN, "--output", str(tmp_path / "plain"))
    summary = here(*RUN, "--output", str(tmp_path / "watched"), "--knn-steps", "3", "--linear-steps", "2")
    lines = log(tmp_path / "watched")
    assert [line["step"] for line in lines] == [2, 3, 4, 6]  # those of --log-interval besides
    assert [line["step"] for line in lines if "knn" in line] == [3, 6]
    assert [line["step"] for line in lines if "linear" in line] == [2, 4, 6]
    assert lines[-1]["knn"] == summary["knn_student"] != lines[1]["knn"]  # digits are fewer images than either bound
    weights = [(tmp_path / run / "latent.safetensors").read_bytes() for run in ("plain", "watched")]
    assert weights[0] == weights[1]
    evaluate([
        "linear", "--dataset", "digits", "--val-split", "validation", "--threads", "1", "--workers", "0",
        "--model", f"local-dir:{tmp_path}/watched/export", "--output", str(tmp_path / "linear.json"),
    ])
    value = json.loads((tmp_path / "linear.json").read_text())["value"]
    assert lines[-1]["linear"] == pytest.approx(value, abs=0.01) != lines[0]["linear"]  # the same images and protocol


@pytest.mark.parametrize("task", ["knn", "linear"])
def test_without_labels_it_is_one_line(tmp_path, capsys, task):
    line = failure(capsys, *RUN, "--output", str(tmp_path), f"--{task}-steps", "3", "--val-split", "none")
    assert f"--{task}-steps needs labels: a --train-split and a --val-split that have them" in line


def test_images_of_the_training_split_are_no_validation_images(tmp_path, capsys):
    """Found by the images, not by descriptions, which differ where one split is a part of another."""
    line = failure(capsys, *RUN, "--output", str(tmp_path), "--val-split", "train")
    assert "--val-split train: 1,437 of its 1,437 images are among those of --train-split train" in line


def test_calibration_makes_the_views_of_the_training(monkeypatch):
    made = []
    make_view = measure.make_view
    monkeypatch.setattr(measure, "make_view", lambda *args: made.append(args) or make_view(*args))
    options = parse_options([*RUN, "--train-interpolation", "bilinear", "--workers", "0"])
    measure.untrained(options, "w1a1", open_dataset("digits"), torch.device("cpu"))
    assert made == [("light", 32, 0.0, "bilinear")]


def test_training_gains_and_the_log_has_its_keys(tmp_path):
    output = tmp_path / "run"
    summary = here(*SHORT, "--lr", "3e-3", "--epochs", "3", "--output", str(output))
    assert summary == json.loads((output / "summary.json").read_text())
    assert summary["knn_student"] > summary["knn_untrained"] + 0.1
    keys = (
        "step epoch stage loss loss_kl loss_fs lambda grad_norm_student grad_norm_student_head grad_norm_target_head "
        "entropy_of_mean mean_entropy target_information lr images_per_s data_wait"
    )
    lines = log(output)
    for line in lines:
        assert set(keys.split()) <= line.keys() and 0 <= line["data_wait"] <= 1
        information = line["entropy_of_mean"] - line["mean_entropy"]
        assert line["target_information"] == pytest.approx(information, abs=1e-4)
    assert [line["stage"] for line in lines] == sorted((line["stage"] for line in lines), reverse=True)
    # The export, loaded by timm alone, is the trained network bit for bit.
    exported = timm.create_model(f"local-dir:{output / 'export'}", pretrained=True).eval()
    latent = timm.create_model("test_reactnet", num_classes=0).eval()
    latent.load_state_dict(load_file(output / "latent.safetensors"))
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(exported(images), latent(images))


@pytest.mark.slow
def test_learning_rate_zero_gains_nothing(tmp_path):
    summary = here(*SHORT, "--lr", "0", "--epochs", "2", "--output", str(tmp_path))
    assert {"knn_pixels", "knn_untrained", "knn_teacher", "knn_student"} <= summary.keys()
    assert summary["knn_student"] - summary["knn_untrained"] < 0.01
