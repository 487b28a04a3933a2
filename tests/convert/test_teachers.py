"""Parts, heads, shapes and settings of teachers' files; test_report.py converts each layout as a whole."""

import json
import sys
import types
from pathlib import Path

import pytest
import timm
import torch

from burn_timm.cli import main
from burn_timm.convert import convert_source, read_source, source_of

from .originals import linear, under
from .teachers import (
    IMAGES,
    byol_lightning,
    byol_lucidrains,
    byol_openselfsup,
    byol_sequential,
    dino,
    lightly,
    lightly_dino,
    lightly_moco,
    moco_v1,
    moco_v2,
    network,
    solo,
)


@pytest.fixture(scope="module")
def resnets():
    """Two ResNet-18: the one that is asked for, and another one."""
    return network(seed=1), network(seed=2)


PARTS = [
    (moco_v1, "encoder_k"), (byol_openselfsup, "target"), (byol_sequential, "target"), (byol_lightning, "target"),
    (byol_lucidrains, "target"), (dino, "student"), (solo, "momentum_backbone"), (lightly, "backbone_momentum"),
    (lightly_dino, "student_backbone"), (lightly_moco, "key_backbone"),
]


def convert(path, content, *options):
    torch.save(content, path / "checkpoint.pth")
    assert main(["convert", str(path / "checkpoint.pth"), str(path / "out"), *options]) == 0
    return timm.create_model(f"local-dir:{path / 'out'}", pretrained=True).eval()


@pytest.mark.parametrize("make,part", PARTS, ids=[f"{make.__name__}-{part}" for make, part in PARTS])
def test_another_part(resnets, make, part):
    one, other = (model.state_dict() for model in resnets)
    same(convert_source(source_of(Path("file.pth"), make(one, other)), part=part), other)


def same(converted, weights):
    assert converted.state_dict.keys() == weights.keys()
    assert all(torch.equal(converted.state_dict[name], weights[name]) for name in weights)


@pytest.mark.parametrize("name", ["barlow", "vicreg", "byol", "dino", "swav", "moco", "vissl", "solo", "lightly"])
def test_an_encoder_alone_takes_its_origin_from_the_option(resnets, name):
    weights = resnets[0].state_dict()
    converted = convert_source(source_of(Path("file.pth"), weights), name)
    assert converted.layout == name
    same(converted, weights)


@pytest.mark.parametrize("name", [
    "resnet34", "resnet50", "resnet101", "wide_resnet50_2", "resnext50_32x4d", "vit_small_patch16_224",
    "vit_base_patch8_224",
])
def test_the_model_is_told_by_its_shapes(name):
    model = timm.create_model(name, num_classes=0, device="meta")
    weights = {key: torch.zeros(()).expand(tensor.shape) for key, tensor in model.state_dict().items()}
    converted = convert_source(source_of(Path("file.pth"), weights))
    assert converted.model_name == name and converted.state_dict.keys() == weights.keys()


def test_moco_v2_on_a_resnet50(tmp_path):
    """The teacher that BURN and S2-BNN use, at its size."""
    resnet = network("resnet50")
    model = convert(tmp_path, moco_v2(resnet.state_dict(), {}))
    with torch.no_grad():
        assert torch.equal(model(IMAGES), resnet(IMAGES))


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "alone"])
def test_dinos_vit(tmp_path, capsys, whole):
    vit, other = network("vit_tiny_patch16_224", seed=3), network("vit_tiny_patch16_224", seed=4)
    content = dino(vit.state_dict(), other.state_dict()) if whole else vit.state_dict()
    model = convert(tmp_path, content)  # alone, a ViT may be anybody's
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(model(images), vit(images))
    out = capsys.readouterr().out
    assert f"layout: {'dino' if whole else 'encoder'}, by its keys" in out and "model: vit_tiny_patch16_224" in out


def test_a_classifier_on_the_pooled_features_is_kept(tmp_path, resnets):
    weights = resnets[0].state_dict() | linear(512, 10, "fc")
    model = convert(tmp_path, {"state_dict": under("module.", weights)})
    with torch.no_grad():
        expected = resnets[0](IMAGES) @ weights["fc.weight"].T + weights["fc.bias"]
        torch.testing.assert_close(model(IMAGES), expected)
    assert model.num_classes == 10


def test_settings_of_foreign_classes_are_left_out_without_running_them(tmp_path, resnets, monkeypatch):
    """The classes are gone when the file is read, as on a machine without that library; their state is skipped."""
    foreign = types.ModuleType("foreign_library")
    ran = []

    class Config:
        def __init__(self, **values):
            self.__dict__.update(values)

        def __setstate__(self, state):
            ran.append(state)

    Config.__module__, Config.__qualname__ = "foreign_library", "Config"
    foreign.Config = Config
    monkeypatch.setitem(sys.modules, "foreign_library", foreign)
    content = {**moco_v2(resnets[0].state_dict(), {}), "config": Config(lr=0.1)}
    torch.save(content, tmp_path / "checkpoint.pth")
    monkeypatch.delitem(sys.modules, "foreign_library")
    same(convert_source(read_source(tmp_path / "checkpoint.pth")), resnets[0].state_dict())
    assert not ran


def test_missing_step_counters_are_filled(resnets):
    weights = resnets[0].state_dict()
    few = {name: tensor for name, tensor in weights.items() if "num_batches" not in name}
    converted = convert_source(source_of(Path("file.pth"), few))
    assert converted.state_dict.keys() == weights.keys()


def test_half_precision_becomes_single(resnets):
    weights = {name: tensor.half() if tensor.is_floating_point() else tensor
               for name, tensor in resnets[0].state_dict().items()}
    converted = convert_source(source_of(Path("file.pth"), weights))
    assert converted.state_dict["conv1.weight"].dtype == torch.float32
    assert torch.equal(converted.state_dict["conv1.weight"], weights["conv1.weight"].float())


def test_the_card_and_the_preprocessing(tmp_path, resnets):
    from huggingface_hub import ModelCard

    convert(tmp_path, dino(resnets[0].state_dict(), resnets[1].state_dict()))
    card = ModelCard.load(tmp_path / "out" / "README.md").data.to_dict()
    assert card["library_name"] == "timm" and card["pipeline_tag"] == "image-feature-extraction"
    assert card["license"] == "apache-2.0" and "timm" in card["tags"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]
    assert config["mean"] == [0.485, 0.456, 0.406] and config["std"] == [0.229, 0.224, 0.225]
    assert (config["input_size"], config["crop_pct"], config["interpolation"]) == ([3, 224, 224], 0.875, "bicubic")
    assert "test_input_size" not in config and config["license"] == "apache-2.0"
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    resolved = timm.data.resolve_model_data_config(model)
    assert resolved["crop_pct"] == 0.875 and resolved["input_size"] == (3, 224, 224)
