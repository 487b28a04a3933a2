"""A teacher from a file in MoCo's layout, head and all, against the original forward pass."""

import pytest
import timm
import torch
import torch.nn.functional as F

from burn_timm.convert.moco import load_moco_teacher
from burn_timm.errors import BurnError

from .runs import DIGITS, TEACHER, here


@pytest.fixture(scope="module")
def moco(tmp_path_factory):
    """Path, encoder without head, and the head's tensors of a v2 file."""
    torch.manual_seed(0)
    encoder = timm.create_model("test_resnet", num_classes=0).eval()
    width = encoder.num_features
    head = {"fc.0.weight": torch.randn(width, width) / 8, "fc.0.bias": torch.randn(width),
            "fc.2.weight": torch.randn(6, width) / 8, "fc.2.bias": torch.randn(6)}
    query = {**encoder.state_dict(), **head}
    state_dict = {f"module.encoder_q.{name}": tensor for name, tensor in query.items()}
    state_dict |= {f"module.encoder_k.{name}": torch.zeros_like(tensor) for name, tensor in query.items()}
    state_dict |= {"module.queue": torch.randn(6, 32), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    path = tmp_path_factory.mktemp("moco") / "moco.pth.tar"
    torch.save({"epoch": 800, "arch": "resnet50", "state_dict": state_dict, "optimizer": {}}, path)
    return path, encoder, head


def test_the_query_encoder_with_its_head(moco, digits):
    path, encoder, head = moco
    images = digits[0][:4].float() / 255
    with torch.no_grad():
        features = encoder(images)
        hidden = F.linear(features, head["fc.0.weight"], head["fc.0.bias"]).clamp(min=0)
        logits = F.linear(hidden, head["fc.2.weight"], head["fc.2.bias"])
        torch.testing.assert_close(load_moco_teacher("test_resnet", str(path), "logits")(images), logits)
        torch.testing.assert_close(load_moco_teacher("test_resnet", str(path), "features")(images), features)


def test_other_layouts_are_left_to_the_usual_loader_and_other_networks_refused(moco, tmp_path):
    path, encoder, _ = moco
    torch.save(encoder.state_dict(), tmp_path / "plain.pth")
    assert load_moco_teacher("test_resnet", str(tmp_path / "plain.pth"), "features") is None
    with pytest.raises(BurnError, match="moco.pth.tar: MoCo's layout, but it does not fit resnet10t") as error:
        load_moco_teacher("resnet10t", str(path), "logits")
    assert "\n" not in str(error.value)


def test_s2bnn_learns_from_it(moco, tmp_path):
    summary = here(
        *DIGITS, *TEACHER, "--method", "s2bnn", "--teacher-output", "logits", "--teacher-checkpoint", str(moco[0]),
        "--stages", "w1a1", "--max-steps", "1", "--val-split", "none", "--output", str(tmp_path / "run"),
    )
    assert summary["settings"]["teacher_output"] == "logits" and (tmp_path / "run" / "export").is_dir()
