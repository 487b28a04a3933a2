"""kNN during training: the figure of the summary, in the log, and nothing else is different."""

import json

import pytest

from train_burn import main

from .runs import SHORT

RUN = [*SHORT, "--workers", "0", "--stages", "w1a1", "--max-steps", "6", "--log-interval", "4"]


def test_the_log_has_the_students_knn_and_training_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    main([*RUN, "--output", str(tmp_path / "plain")])
    summary = main([*RUN, "--output", str(tmp_path / "watched"), "--knn-steps", "3"])
    lines = [json.loads(line) for line in (tmp_path / "watched" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 4, 6]  # those of --log-interval besides
    assert [line["step"] for line in lines if "knn" in line] == [3, 6]
    assert lines[-1]["knn"] == summary["knn_student"] != lines[0]["knn"]  # digits are fewer images than either bound
    weights = [(tmp_path / run / "latent.safetensors").read_bytes() for run in ("plain", "watched")]
    assert weights[0] == weights[1]
    assert (tmp_path / "watched" / "curves.png").stat().st_size > 10_000


def test_without_labels_it_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([*RUN, "--output", str(tmp_path), "--knn-steps", "3", "--val-split", "none"])
    assert "--knn-steps needs labels: a --train-split and a --val-split that have them" in capsys.readouterr().err


def test_an_information_head_without_its_term_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([*RUN, "--output", str(tmp_path), "--target-head", "information"])
    assert "--target-head information needs --information-weight above 0" in capsys.readouterr().err
