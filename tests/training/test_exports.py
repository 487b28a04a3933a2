"""What a run exports: sizes, vision transformers, classifiers."""

import pytest
import timm
import torch

from .runs import DIGITS, SHORT, checkpoint, failure, here, log, options_of

ONE = ["--max-steps", "1", "--stages", "w1a1"]


def test_the_export_has_its_own_size_and_the_weights_are_the_same(tmp_path):
    """Nothing that was computed depends on it, so a run may be resumed with another one."""
    def exported(*options):
        summary = here(*SHORT, *ONE, "--output", str(tmp_path), *options)
        return summary, timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True)

    (plain, one), (larger, other) = exported(), exported("--export-img-size", "48", "--resume", "auto")
    assert (plain["export_img_size"], larger["export_img_size"], larger["img_size"]) == (32, 48, 32)
    assert [model.pretrained_cfg["input_size"] for model in (one, other)] == [(3, 32, 32), (3, 48, 48)]
    states = one.state_dict(), other.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert plain["knn_student"] != larger["knn_student"]  # measured at the size of the export


@pytest.mark.parametrize(("model", "kwargs"), [
    ("test_vit", "dynamic_img_size=False"),  # otherwise it takes any
    ("resmlp_12_224", "img_size=32"),  # no set_input_size
])
def test_a_network_of_one_size_is_refused_before_training(tmp_path, capsys, model, kwargs):
    options = [*options_of("simclr"), "--model", model, "--model-kwargs", kwargs, "--max-steps", "1"]
    line = failure(capsys, *options, "--export-img-size", "48", "--output", str(tmp_path / "run"))
    assert "--export-img-size: the network refuses images of 48 px" in line
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_a_vit_teaches_at_its_own_size_and_at_another(tmp_path):
    vit = timm.create_model("test_vit", num_classes=0)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    options = [*DIGITS, *ONE, "--teacher", "test_vit", "--teacher-checkpoint", str(tmp_path / "vit.pth")]
    at_32 = here(*options, "--teacher-img-size", "32", "--output", str(tmp_path / "at_32"))
    own = here(*options, "--batch-size", "8", "--val-split", "none", "--output", str(tmp_path / "own"))
    assert (at_32["settings"]["teacher_img_size"], own["settings"]["teacher_img_size"]) == (32, 160)
    one, other = (checkpoint(tmp_path / name)["identity"]["teacher"] for name in ("at_32", "own"))
    assert one["size"] == [32, 32] and other["size"] == [160, 160] and one["sha256"] == other["sha256"]
    assert 0 < at_32["knn_teacher"] <= 1


def test_a_vit_trained_at_another_size_is_exported_at_it(tmp_path):
    here(*options_of("simclr"), "--model", "test_vit", "--max-steps", "1", "--output", str(tmp_path))
    model = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval()
    state, prefix = checkpoint(tmp_path)["method"], "backbone.model."
    trained = timm.create_model("test_vit", num_classes=0, img_size=32).eval()
    trained.load_state_dict({name[len(prefix) :]: state[name] for name in state if name.startswith(prefix)})
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), trained(images))


@pytest.mark.slow  # trains to some accuracy
def test_the_classifier_is_exported_and_predicts(tmp_path, digits):
    here(*options_of("supervised"), "--epochs", "6", "--lr", "3e-3", "--stages", "w1a1", "--output", str(tmp_path))
    top1 = log(tmp_path, "top1")
    assert top1[-1] > top1[0]
    model = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval()
    assert model.num_classes == 10
    images, labels = digits
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        predicted = model((images[:500].float() / 255 - mean) / std).argmax(-1)
    assert (predicted == labels[:500]).double().mean() > 0.5
