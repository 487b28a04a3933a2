"""Released weights: every tag has its file in the package, loads offline in all the ways of timm, and gives what it
gave when it was released."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml

import burn_timm
from burn_timm.models import BINARY_MODULES
from burn_timm.models.reactnet import HUB_ORGANISATION

from .golden import features

WEIGHTS = Path(burn_timm.__file__).parent / "weights"
TAGS = timm.list_models("*", module=BINARY_MODULES, pretrained=True, include_tags=True)
EACH = pytest.mark.parametrize("tag", TAGS)


def golden(tag):
    return np.load(Path(__file__).parent / "golden_outputs" / f"{tag}.npz")


def prepared(tag):
    """The stored photos as the network takes them, float64 [2, 3, H, W]."""
    config = timm.get_pretrained_cfg(tag)
    mean, std = (torch.tensor(getattr(config, key)).double()[:, None, None] for key in ("mean", "std"))
    return (torch.tensor(golden(tag)["images"]).double() / 255 - mean) / std


def test_the_files_of_the_package_are_the_tags_of_the_package_and_small():
    assert TAGS and {f"{tag}.safetensors" for tag in TAGS} == {path.name for path in WEIGHTS.glob("*.safetensors")}
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= 8 * 2**20
    assert timm.is_model_pretrained("reactnet_a_burn") and not timm.is_model_pretrained("reactnet_a")
    assert set(TAGS) <= set(timm.list_pretrained("reactnet*"))
    assert timm.get_pretrained_cfg("reactnet_a_burn").tag == "distill_lite0_tiny_mini_imagenet_64"  # the better one


@EACH
def test_the_tag_names_teacher_data_size_and_a_repository(tag):
    config = timm.get_pretrained_cfg(tag)
    assert config.hf_hub_id == f"{HUB_ORGANISATION}/{tag}" and Path(config.file).parent == WEIGHTS
    training = json.loads((WEIGHTS / f"{tag}.json").read_text())
    recipe, *words, px = tag.partition(".")[2].split("_")  # RECIPE_TEACHER_DATA_PIXELS, of use
    assert recipe == "distill" and training["model"] in tag.partition(".")[0]
    assert config.input_size == (3, int(px), int(px)) and training["img_size"] <= int(px)
    front = yaml.safe_load((Path(__file__).parents[2] / "model_cards" / f"{tag}.md").read_text().split("---")[1])
    assert {word for name in front["datasets"] for word in name.partition("/")[2].split("-")} <= set(words)


@EACH
def test_golden_outputs(tag):
    assert features(tag, golden(tag)["images"]) == pytest.approx(golden(tag)["features"], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("tag", [
    pytest.param(tag, marks=() if tag.startswith("reactnet_a_025") else pytest.mark.slow) for tag in TAGS
])
def test_all_that_timm_users_do(tag):
    images = prepared(tag).float()
    with torch.no_grad():
        model = timm.create_model(tag, pretrained=True).eval()
        expected = model(images)
        assert model.num_classes == 0 and expected.shape == (2, model.num_features)
        if timm.get_pretrained_cfg(tag.partition(".")[0]).tag in tag:  # the default of its name
            assert torch.equal(timm.create_model(tag.partition(".")[0], pretrained=True).eval()(images), expected)

        head = timm.create_model(tag, pretrained=True, num_classes=7).eval()
        assert head(images).shape == (2, 7)
        assert torch.equal(head.forward_head(head.forward_features(images), pre_logits=True), expected)

        grey = timm.create_model(tag, pretrained=True, in_chans=1).stem.conv.weight
        assert torch.allclose(grey, model.stem.conv.weight.sum(1, keepdim=True), atol=1e-6)

        maps = timm.create_model(tag, pretrained=True, features_only=True).eval()(images)
        assert [m.shape[1] for m in maps] == [info["num_chs"] for info in model.feature_info]
        assert torch.equal(maps[-1].mean((2, 3)), expected)


def test_torch_hub():
    root = str(Path(burn_timm.__file__).parents[1])
    model = torch.hub.load(root, "reactnet_a_025_burn", source="local", pretrained=True, trust_repo=True)
    expected = timm.create_model("reactnet_a_025_burn", pretrained=True)
    assert all(map(torch.equal, model.state_dict().values(), expected.state_dict().values()))
    assert torch.hub.load(root, "resnet20_cifar", source="local", num_classes=7).num_classes == 7
