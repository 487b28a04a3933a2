"""What goes wrong in a run ends in one line that says what to do, and leaves no half-written export."""


import pytest
import torch

import train_burn

from .runs import SHORT


def failing(options, capsys, monkeypatch) -> str:
    """Run train_burn in this process; the one line it ends with."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the variable is read at import only
    with pytest.raises(SystemExit) as ended:
        train_burn.main(options)
    assert ended.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train_burn.py: error: ")]
    assert len(lines) == 1
    return lines[0]


def options(tmp_path, **changes) -> list[str]:
    values = [*SHORT, "--workers", "0", "--val-split", "none", "--output", str(tmp_path / "run")]
    for name, value in changes.items():
        values += [f"--{name.replace('_', '-')}", value]
    return values


@pytest.mark.parametrize("changes, message", [
    ({"model": "reactnet_b"}, "reactnet_b"),
    ({"teacher": "resnet_fifty"}, "--teacher resnet_fifty: model resnet_fifty: timm knows no such name"),
    ({"dataset": "missing_folder"}, "missing_folder"),
    ({"train_split": "nonsense"}, "nonsense"),
    ({"teacher_checkpoint": "missing.pth"}, "missing.pth: no such file"),
    ({"batch_size": "4000"}, "4000"),
    ({"grad_accum_steps": "100"}, "lower --grad-accum-steps"),
    ({"log_with": "nonsense"}, "--log-with nonsense"),
    ({"teacher_kwargs": "features_only=True"}, "--teacher: expected pooled features [B, D], got a list"),
    ({"model_kwargs": "features_only=True"}, "--model: expected pooled features [B, D], got a list"),
    ({"teacher": "test_vit", "teacher_img_size": "8"}, "--teacher-img-size 8"),
    ({"opt": "nonsense"}, "--opt nonsense: Optimizer nonsense not found"),
    ({"data_dir": "photos"}, "--dataset digits lies inside scikit-learn; leave it or --data-dir photos out"),
])
def test_bad_input_is_one_line(changes, message, tmp_path, capsys, monkeypatch):
    assert message in failing(options(tmp_path, **changes), capsys, monkeypatch)


def test_a_teacher_whose_weights_cannot_be_had_is_an_error_that_names_the_ways_out(tmp_path, capsys, monkeypatch):
    argv = [option for option in options(tmp_path, teacher="resnet18") if option != "--no-teacher-pretrained"]
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    line = failing(argv, capsys, monkeypatch)
    assert "--teacher resnet18" in line and "--teacher-checkpoint" in line and "--no-teacher-pretrained" in line


def test_a_loss_that_is_not_finite_stops_before_it_reaches_a_checkpoint(tmp_path, capsys, monkeypatch):
    argv = options(tmp_path, lr="1e30", max_steps="12", checkpoint_steps="1")
    line = failing(argv, capsys, monkeypatch)
    assert "not finite" in line and "loss_kl" in line and "checkpoint.pt (step" in line
    kept = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert f"step {kept['step']})" in line and not (tmp_path / "run" / "export").exists()


