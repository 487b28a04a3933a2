"""Vision transformers, which take images of one size: changed to the run's, as teacher and as trained network."""

import pytest
import timm
import torch

import train_burn

from .runs import SHORT


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def run(output, *options: str) -> dict:
    return train_burn.main([*SHORT, "--workers", "0", "--max-steps", "1", "--output", str(output), *options])


def teacher_identity(output) -> dict:
    return torch.load(output / "checkpoint.pt", weights_only=True)["identity"]["teacher"]


def test_a_vit_teaches_at_its_own_size_and_at_another(tmp_path):
    vit = timm.create_model("test_vit", num_classes=0)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    options = ["--teacher", "test_vit", "--teacher-checkpoint", str(tmp_path / "vit.pth"), "--stages", "w1a1"]
    at_32 = run(tmp_path / "at_32", *options)
    own = list(SHORT)
    del own[own.index("--teacher-img-size") : own.index("--teacher-img-size") + 2]
    summary = train_burn.main([
        *own, *options, "--workers", "0", "--max-steps", "1", "--batch-size", "8", "--val-split", "none", "--output",
        str(tmp_path / "own"),
    ])
    assert (at_32["settings"]["teacher_img_size"], summary["settings"]["teacher_img_size"]) == (32, 160)
    one, other = (teacher_identity(tmp_path / name) for name in ("at_32", "own"))
    assert one["size"] == [32, 32] and other["size"] == [160, 160] and one["sha256"] == other["sha256"]
    assert 0 < at_32["knn_teacher"] <= 1


def test_a_vit_trained_at_another_size_is_exported_at_it(tmp_path):
    run(tmp_path / "run", "--method", "simclr", "--teacher", "", "--model", "test_vit")
    model = timm.create_model(f"local-dir:{tmp_path / 'run' / 'export'}", pretrained=True).eval()
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["method"]
    trained = timm.create_model("test_vit", num_classes=0, img_size=32).eval()
    prefix = "backbone.model."
    trained.load_state_dict({name[len(prefix) :]: state[name] for name in state if name.startswith(prefix)})
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), trained(images))
