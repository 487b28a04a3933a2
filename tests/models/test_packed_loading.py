"""Packed weights through every door of timm: local-dir, checkpoint_path, features_only, new heads, other inputs."""

import logging

import pytest
import timm
import torch
from exported import packed, write_export

from burn_timm.packing import save_packed


@pytest.fixture(scope="module", params=["test_reactnet", "test_reactnet_mlp"])  # the second has a hidden layer
def folder(request, tmp_path_factory):
    """An export whose statistics are not the initial ones."""
    torch.manual_seed(3)
    model = timm.create_model(request.param, num_classes=0)
    for _ in range(3):
        model(torch.randn(8, 3, 48, 48))
    return write_export(tmp_path_factory.mktemp("packed"), model, weight_bits=1, act_bits=1), model.eval()


IMAGES = torch.randn(2, 3, 48, 48)


def test_local_dir_and_checkpoint_path_give_the_same_bits(folder):
    folder, model = folder
    expected = model(IMAGES)
    assert torch.equal(timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(IMAGES), expected)
    path = str(folder / "model.safetensors")
    headless = timm.create_model(model.pretrained_cfg["architecture"], num_classes=0, checkpoint_path=path).eval()
    assert torch.equal(headless(IMAGES), expected)


def test_a_headless_file_leaves_a_new_head_and_says_so(folder, caplog):
    folder, model = folder
    with caplog.at_level(logging.WARNING):
        path = str(folder / "model.safetensors")
        loaded = timm.create_model(model.pretrained_cfg["architecture"], checkpoint_path=path).eval()
    assert "no classifier" in caplog.text
    assert loaded(IMAGES).shape == (2, 1000)
    assert torch.equal(loaded.forward_head(loaded.forward_features(IMAGES), pre_logits=True), model(IMAGES))
    new_head = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7).eval()
    assert new_head(IMAGES).shape == (2, 7)
    assert torch.equal(new_head.forward_head(new_head.forward_features(IMAGES), pre_logits=True), model(IMAGES))


@pytest.mark.parametrize(("door", "kwargs"), [
    ("local-dir", {}), ("local-dir", {"out_indices": (0, 1), "feature_cls": "getter"}),
    ("checkpoint_path", {}), ("checkpoint_path", {"out_indices": (1, 3)}),
    ("checkpoint_path", {"feature_cls": "dict"}), ("checkpoint_path", {"feature_cls": "hook"}),
    ("checkpoint_path", {"feature_cls": "fx"}), ("checkpoint_path", {"feature_cls": "getter"}),
    ("checkpoint_path", {"out_indices": (0, 1), "feature_cls": "getter"}),
])
def test_features_only(folder, door, kwargs):
    folder, model = folder
    words = {"model_name": f"local-dir:{folder}", "pretrained": True}
    if door == "checkpoint_path":
        words = {"model_name": model.pretrained_cfg["architecture"], door: str(folder / "model.safetensors")}
    loaded = timm.create_model(**words, features_only=True, **kwargs).eval()
    features = loaded(IMAGES)
    features = list(features.values()) if isinstance(features, dict) else features
    expected = model.forward_intermediates(IMAGES, intermediates_only=True)
    for found, index in zip(features, kwargs.get("out_indices", range(4)), strict=True):
        assert torch.equal(found, expected[index])
    assert loaded.feature_info.channels() == [found.shape[1] for found in features]
    assert loaded.feature_info.reduction() == [48 // found.shape[-1] for found in features]


@pytest.mark.parametrize("feature_cls", ["list", "getter", "fx"])
def test_features_only_refuses_a_deeper_network(feature_cls, tmp_path):
    """Before, half of its blocks were left out without a word."""
    save_packed(tmp_path / "deep.safetensors", packed(timm.create_model("test_reactnet", depths=(1, 1, 3, 1))))
    with pytest.raises(RuntimeError, match="stages.2.2.* is in the file but not in the model"):
        timm.create_model("test_reactnet", features_only=True, out_indices=(1, 2), feature_cls=feature_cls,
                          checkpoint_path=str(tmp_path / "deep.safetensors"))
