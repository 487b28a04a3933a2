"""Accuracies during training: those of the finished run, in the log, and nothing else is different."""

import json

import pytest

from eval_downstream import main as evaluate
from train_burn import main

from .runs import SHORT

RUN = [*SHORT, "--workers", "0", "--stages", "w1a1", "--max-steps", "6", "--log-interval", "4"]


def test_the_log_has_the_students_knn_and_training_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    main([*RUN, "--output", str(tmp_path / "plain")])
    summary = main([*RUN, "--output", str(tmp_path / "watched"), "--knn-steps", "3", "--linear-steps", "3"])
    lines = [json.loads(line) for line in (tmp_path / "watched" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 4, 6]  # those of --log-interval besides
    assert [line["step"] for line in lines if "knn" in line] == [3, 6]
    assert lines[-1]["knn"] == summary["knn_student"] != lines[0]["knn"]  # digits are fewer images than either bound
    weights = [(tmp_path / run / "latent.safetensors").read_bytes() for run in ("plain", "watched")]
    assert weights[0] == weights[1]
    assert (tmp_path / "watched" / "curves.png").stat().st_size > 10_000


def test_linear_evaluation_in_the_log_is_that_of_the_export(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    main([*RUN, "--output", str(tmp_path), "--linear-steps", "2", "--knn-steps", "4"])
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "linear" in line] == [2, 4, 6]
    assert [line["step"] for line in lines if "knn" in line] == [4]
    evaluate([
        "linear", "--dataset", "digits", "--val-split", "validation", "--threads", "1", "--workers", "0",
        "--model", f"local-dir:{tmp_path}/export", "--output", str(tmp_path / "linear.json"),
    ])
    value = json.loads((tmp_path / "linear.json").read_text())["value"]
    assert lines[-1]["linear"] == pytest.approx(value, abs=0.01)  # the same images and protocol, from the file
    assert lines[-1]["linear"] != lines[0]["linear"]


@pytest.mark.parametrize("task", ["knn", "linear"])
def test_without_labels_it_is_one_line(tmp_path, capsys, task):
    with pytest.raises(SystemExit):
        main([*RUN, "--output", str(tmp_path), f"--{task}-steps", "3", "--val-split", "none"])
    assert f"--{task}-steps needs labels: a --train-split and a --val-split that have them" in capsys.readouterr().err


def test_an_information_head_without_its_term_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([*RUN, "--output", str(tmp_path), "--target-head", "information"])
    assert "--target-head information needs --information-weight above 0" in capsys.readouterr().err
