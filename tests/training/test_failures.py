"""What goes wrong in a run ends in one line that says what to do, and leaves no half-written export."""

import pytest

from .runs import SHORT, checkpoint, failure

OPTIONS = [*SHORT, "--val-split", "none"]


@pytest.fixture
def line(tmp_path, capsys, monkeypatch):
    """The line that a run with further options ends in."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the variable is read at import only
    return lambda *options: failure(capsys, *options, "--output", str(tmp_path / "run"))


@pytest.mark.parametrize("options, message", [
    ("--model reactnet_b", "reactnet_b"),
    ("--teacher resnet_fifty", "--teacher resnet_fifty: model resnet_fifty: timm knows no such name"),
    ("--dataset missing_folder", "missing_folder"),
    ("--train-split nonsense", "nonsense"),
    ("--teacher-checkpoint missing.pth", "missing.pth: no such file"),
    ("--batch-size 4000", "4000"),
    ("--grad-accum-steps 100", "lower --grad-accum-steps"),
    ("--warmup-epochs 1 --max-steps 4", "--warmup-epochs 1 is 22 steps, but a stage has 4"),
    ("--log-with nonsense", "--log-with nonsense"),
    ("--teacher-kwargs features_only=True", "--teacher: expected pooled features [B, D], got a list"),
    ("--model-kwargs features_only=True", "--model: expected pooled features [B, D], got a list"),
    ("--teacher test_vit --teacher-img-size 8", "--teacher-img-size 8"),
    ("--data-dir photos", "--dataset digits lies inside scikit-learn; leave it or --data-dir photos out"),
])
def test_bad_input_is_one_line(options, message, line):
    assert message in line(*OPTIONS, *options.split())


def test_a_teacher_whose_weights_cannot_be_had_is_an_error_that_names_the_ways_out(tmp_path, line, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    told = line(*OPTIONS, "--teacher-pretrained", "--teacher", "resnet18")
    assert "--teacher resnet18" in told and "--teacher-checkpoint" in told and "--no-teacher-pretrained" in told


def test_a_loss_that_is_not_finite_stops_before_it_reaches_a_checkpoint(tmp_path, line):
    told = line(*OPTIONS, "--lr", "1e30", "--max-steps", "12", "--checkpoint-steps", "1")
    assert "not finite" in told and "loss_kl" in told and "checkpoint.pt (step" in told
    assert f"step {checkpoint(tmp_path / 'run')['step']})" in told and not (tmp_path / "run" / "export").exists()
