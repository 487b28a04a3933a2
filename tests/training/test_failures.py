"""What goes wrong in a run ends in one line that says what to do, and leaves no half-written export."""

import pytest

from .runs import SHORT, checkpoint, options_of


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
    ("--knn-steps 3", "--knn-steps needs labels: a --train-split and a --val-split that have them"),
    ("--val-split train", "--val-split train: 1,437 of its 1,437 images are among those of --train-split train"),
    ("--val-split valdiation", "no split 'valdiation'"),
    ("--cache-teacher 2 --views cross --cache-dir .", "several views"),
    ("--cache-teacher 2 --views-on device --cache-dir .", "--views-on workers"),
    ("--teacher resnet18 --teacher-pretrained", "--teacher-checkpoint FILE, or --no-teacher-pretrained"),
])
def test_bad_input_is_one_line(options, message, refused, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the variable is read at import only
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    assert message in refused(SHORT, "--max-steps 1 --val-split none", options)
    assert not list(tmp_path.glob("teacher-*"))  # before the teacher's work


def test_a_teacher_without_classifier_has_no_logits(refused):
    words = "--teacher-kwargs num_classes=0 --max-steps 1 --val-split none"
    assert "has no classifier, so no logits" in refused(options_of("supervised_kl"), words)
    trained = "--teacher reactnet_a_025_burn --teacher-pretrained --teacher-kwargs num_classes=7"
    assert "classifier comes with its weights" in refused(options_of("supervised_kl"), words, trained)


def test_machines_that_find_different_checkpoints_do_not_train_together(refused, monkeypatch):
    monkeypatch.setattr("burn_timm.training.processes.gather_object", lambda step: [*step, 7])  # another one's
    assert "all machines of a run must share this folder" in refused(SHORT, "--max-steps 9 --val-split none")


@pytest.mark.parametrize(("model", "words", "message"), [
    ("test_vit", "--model-kwargs dynamic_img_size=False", "--export-img-size: the network refuses images of 48"),
    ("resmlp_12_224", "--model-kwargs img_size=32", "--export-img-size: the network refuses images of 48"),
    ("resnet20_cifar", "--grad-checkpointing", "--grad-checkpointing: "),
])
def test_a_network_that_cannot_do_it_is_refused_before_training(refused, tmp_path, model, words, message):
    line = refused(options_of("simclr"), "--model", model, words, "--max-steps 1 --export-img-size 48")
    assert message in line and not (tmp_path / "run" / "checkpoint.pt").exists()


def test_a_loss_that_is_not_finite_stops_before_it_reaches_a_checkpoint(tmp_path, refused):
    told = refused(SHORT, "--val-split none --lr 1e30 --max-steps 12 --checkpoint-steps 1")
    assert "not finite" in told and "loss_kl" in told and "checkpoint.pt (step" in told
    assert f"step {checkpoint(tmp_path / 'run')['step']})" in told
