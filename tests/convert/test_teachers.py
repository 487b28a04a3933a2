"""Each teacher's layout is told by its keys, and its network computes what a timm model with those weights does."""

import argparse
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

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(7))
MLP = {**linear(512, 32, "0"), **linear(32, 16, "2")}


def network(name="resnet18", seed=1, **kwargs):
    """A timm model whose BatchNorm statistics and affine parameters are not the initial ones."""
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=0, **kwargs).eval()
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            positive = key.endswith(("weight", "var"))
            tensor.copy_(0.5 + torch.rand_like(tensor) if positive else torch.randn_like(tensor) / 3)
    return model


@pytest.fixture(scope="module")
def resnets():
    """Two ResNet-18: the one that is asked for, and another one."""
    return network(seed=1), network(seed=2)


def children(weights):
    """Names of an `nn.Sequential` of torchvision's children."""
    numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    return {".".join([numbers[key.split(".")[0]], *key.split(".")[1:]]): tensor for key, tensor in weights.items()}


def moco_v1(one, other):
    weights = under("module.encoder_q.", one | linear(512, 16, "fc")) | under("module.encoder_k.", other)
    weights |= under("module.encoder_k.", linear(512, 16, "fc")) | {"module.queue": torch.randn(16, 64)}
    weights["module.queue_ptr"] = torch.tensor([0])
    return {"epoch": 200, "arch": "resnet50", "state_dict": weights, "optimizer": {"state": {}}}


def moco_v2(one, other):
    weights = under("module.encoder_q.", one) | under("module.encoder_q.fc.", MLP)
    return {"epoch": 800, "arch": "resnet50", "state_dict": weights}


def simsiam(one, other):
    weights = under("module.encoder.", one) | under("module.encoder.fc.", MLP) | under("module.predictor.", MLP)
    return {"epoch": 100, "arch": "resnet50", "state_dict": weights, "optimizer": {}}


def swav(one, other):
    weights = under("module.", one) | under("module.projection_head.", MLP)
    return weights | {"module.prototypes.weight": torch.randn(30, 16)}


def byol_openselfsup(one, other):
    weights = under("backbone.", one) | under("online_net.0.", one) | under("target_net.0.", other)
    for name in ("online_net.1.mlp.", "target_net.1.mlp.", "head.predictor.mlp."):
        weights |= under(name, MLP)
    return {"meta": {"epoch": 300}, "state_dict": weights, "optimizer": {"state": {}}}


def byol_sequential(one, other):
    return {
        "online_network_state_dict": under("encoder.", children(one)) | under("projetion.net.", MLP),
        "target_network_state_dict": under("encoder.", children(other)) | under("projetion.net.", MLP),
        "optimizer_state_dict": {"state": {0: {"momentum_buffer": torch.zeros(2)}}},
    }


def byol_lightning(one, other):
    weights = under("online_network.encoder.", one) | under("online_network.projector.model.", MLP)
    weights |= under("online_network.predictor.model.", MLP) | under("target_network.encoder.", other)
    weights |= under("target_network.projector.model.", MLP) | under("target_network.predictor.model.", MLP)
    return {"state_dict": weights, "pytorch-lightning_version": "1.1", "global_step": 5}


def byol_lucidrains(one, other):
    weights = under("online_encoder.net.", one | linear(512, 1000, "fc")) | under("online_encoder.projector.", MLP)
    weights |= under("target_encoder.net.", other | linear(512, 1000, "fc")) | under("target_encoder.projector.", MLP)
    return weights | under("online_predictor.", MLP)


def barlow(one, other):
    weights = under("module.backbone.", one) | under("module.projector.", MLP)
    weights |= {"module.bn.running_mean": torch.zeros(16), "module.bn.running_var": torch.ones(16),
                "module.bn.num_batches_tracked": torch.tensor(3)}
    return {"epoch": 1000, "model": weights, "optimizer": {"state": {}}}


def vicreg(one, other):
    return {"epoch": 1000, "model": under("module.backbone.", one) | under("module.projector.", MLP), "optimizer": {}}


def dino(one, other):
    head = {"head.mlp.0.weight": torch.randn(8, 8), "head.last_layer.weight_g": torch.randn(8, 1),
            "head.last_layer.weight_v": torch.randn(8, 8)}
    return {
        "teacher": under("module.", under("backbone.", one) | head),
        "student": under("module.", under("backbone.", other) | head), "epoch": 800,
        "args": argparse.Namespace(arch="resnet50"), "dino_loss": {"center": torch.zeros(1, 8)},
    }


def vissl(one, other):
    model = {"trunk": under("_feature_blocks.", one), "heads": under("0.clf.", MLP)}
    return {"phase_idx": 3, "loss": 1.0, "iteration": 9, "config": Settings({"LOG": 1}),
            "classy_state_dict": {"base_model": {"model": model, "meta": {}}, "optimizer": {"iter": torch.zeros(3)}}}


def vissl_converted(one, other):
    return {"model_state_dict": under("_feature_blocks.", one)}


def solo(one, other):
    weights = under("backbone.", one) | under("momentum_backbone.", other) | linear(512, 100, "classifier")
    for name in ("projector.", "momentum_projector.", "predictor."):
        weights |= under(name, MLP)
    weights |= linear(512, 100, "momentum_classifier") | {"queue": torch.randn(2, 16, 64), "queue_ptr": torch.zeros(1)}
    return {
        "epoch": 400, "global_step": 7, "pytorch-lightning_version": "1.5.1", "state_dict": weights,
        "hyper_parameters": Settings({"method": "mocov2plus"}), "optimizer_states": [{"state": {0: torch.zeros(2)}}],
    }


def solo_old(one, other):
    weights = under("encoder.", one) | under("projector.", MLP) | linear(512, 100, "classifier")
    return {"epoch": 400, "state_dict": weights}


def lightly(one, other):
    weights = under("backbone.", children(one)) | under("backbone_momentum.", children(other))
    for name in ("projection_head.", "projection_head_momentum.", "prediction_head."):
        weights |= under(f"{name}layers.", MLP)
    return {"state_dict": weights, "pytorch-lightning_version": "2.0"}


def lightly_dino(one, other):
    weights = under("teacher_backbone.", one) | under("student_backbone.", other)
    weights |= under("student_head.layers.", MLP) | under("teacher_head.layers.", MLP)
    return {"state_dict": weights | {"criterion.center": torch.zeros(1, 1, 16)}}


def alone(one, other):
    return one


class Settings(dict):
    """Settings of a foreign class, as Lightning, VISSL and OmegaConf leave them in a checkpoint."""


LAYOUTS = {
    "moco": [moco_v1, moco_v2], "simsiam": [simsiam], "swav": [swav], "barlow": [barlow], "vicreg": [vicreg],
    "byol": [byol_openselfsup, byol_sequential, byol_lightning, byol_lucidrains], "dino": [dino],
    "vissl": [vissl, vissl_converted], "solo": [solo, solo_old], "lightly": [lightly, lightly_dino],
    "torchvision": [alone],
}
CASES = [pytest.param(name, make, id=make.__name__) for name, makes in LAYOUTS.items() for make in makes]
PARTS = [
    (moco_v1, "encoder_k"), (byol_openselfsup, "target"), (byol_sequential, "target"), (byol_lightning, "target"),
    (byol_lucidrains, "target"), (dino, "student"), (solo, "momentum_backbone"), (lightly, "backbone_momentum"),
    (lightly_dino, "student_backbone"),
]


def convert(path, content, *options):
    torch.save(content, path / "checkpoint.pth")
    assert main(["convert", str(path / "checkpoint.pth"), str(path / "out"), *options]) == 0
    return timm.create_model(f"local-dir:{path / 'out'}", pretrained=True).eval()


@pytest.mark.parametrize("name,make", CASES)
def test_told_by_its_keys(tmp_path, resnets, capsys, name, make):
    one, other = (model.state_dict() for model in resnets)
    content = make(one, other)
    model = convert(tmp_path, content)
    with torch.no_grad():
        assert torch.equal(model(IMAGES), resnets[0](IMAGES))
    out = capsys.readouterr().out
    assert out.startswith(f"layout: {name} (") and "), by its keys; part " in out
    assert f"model: resnet18, no classifier; all of its {len(one)} tensors filled" in out
    total = sum(isinstance(value, torch.Tensor) for value in leaves(content))
    assert f"{total} tensors in the file: {len(one)} converted" in out
    dropped = [int(line.split(" dropped: ")[0]) for line in out.splitlines() if " dropped: " in line]
    assert total == len(one) + sum(dropped)


def leaves(value):
    if isinstance(value, dict):
        for inside in value.values():
            yield from leaves(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from leaves(inside)
    else:
        yield value


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
    model = convert(tmp_path, content)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(model(images), vit(images))
    out = capsys.readouterr().out
    assert "layout: dino" in out and "model: vit_tiny_patch16_224" in out


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
