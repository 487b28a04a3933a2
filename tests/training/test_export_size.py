"""--export-img-size: networks that are used at another size than they were trained at."""

import pytest
import timm
import torch

import train_burn

from .runs import SHORT


def run(output, *options: str) -> dict:
    return train_burn.main([
        *SHORT, "--workers", "0", "--max-steps", "2", "--stages", "w1a1", "--output", str(output), *options,
    ])


def test_the_export_has_the_size_and_the_weights_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    plain, larger = run(tmp_path / "plain"), run(tmp_path / "larger", "--export-img-size", "48")
    assert (plain["export_img_size"], larger["export_img_size"], larger["img_size"]) == (32, 48, 32)
    models = [timm.create_model(f"local-dir:{tmp_path / name / 'export'}", pretrained=True)
              for name in ("plain", "larger")]
    assert [model.pretrained_cfg["input_size"] for model in models] == [(3, 32, 32), (3, 48, 48)]
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert plain["knn_student"] != larger["knn_student"]  # measured at the size of the export
    # Nothing that was computed depends on it, so a run may be resumed with another one.
    again = run(tmp_path / "plain", "--export-img-size", "48", "--resume", "auto")
    assert again["knn_student"] == larger["knn_student"]
    card = (tmp_path / "larger" / "export" / "README.md").read_text()
    assert "[B, 3, 48, 48]" in card and "* images: 32 px\n* used at: 48 px" in card


@pytest.mark.parametrize("model", ["test_vit", "resmlp_12_224"])
def test_a_network_of_one_size_is_refused_before_training(tmp_path, monkeypatch, capsys, model):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    options = [*SHORT, "--method", "simclr", "--teacher", "", "--model", model, "--workers", "0", "--max-steps", "1"]
    if model == "test_vit":
        options += ["--model-kwargs", "dynamic_img_size=False"]  # otherwise it takes any
    else:  # no set_input_size
        options += ["--model-kwargs", "img_size=32"]
    with pytest.raises(SystemExit) as end:
        train_burn.main([*options, "--export-img-size", "48", "--output", str(tmp_path / "run")])
    assert end.value.code == 2
    assert "--export-img-size: the network refuses images of 48 px" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
