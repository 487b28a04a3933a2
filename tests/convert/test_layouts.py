"""Every layout converted: the network computes what the original computes, each tensor of the file is accounted for,
and what `burn-timm convert` writes says where the weights are from."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard

from burn_timm.cli import main
from burn_timm.convert.conversion import convert_source
from burn_timm.convert.layouts import NAMES
from burn_timm.convert.origins import ORIGINS
from burn_timm.convert.source import source_of
from burn_timm.packing import is_packed, read_tensors

from . import originals, teachers
from .originals import linear, neck, under
from .teachers import TEACHERS


@dataclass
class Case:
    """A file, the options, and what must come of it."""

    content: object
    layout: str
    expected: Callable[[], torch.Tensor]
    part: str = "network"
    stage: str = ""
    options: tuple[str, ...] = ()
    words: str = ""
    size: int = 64


def images(size=64):
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(7))


IMAGES = images()


# teachers


@pytest.mark.parametrize("name", TEACHERS)
def test_each_encoder_of_a_teachers_file_is_converted_as_it_is(name):
    layout, part, other, content = TEACHERS[name]
    source = source_of(Path("file.pth"), content)
    for seed, asked in ((1, None), (2, other)) if other else ((1, None),):
        converted = convert_source(source, part=asked)
        own, expected = converted.state_dict, teachers.network(seed=seed).state_dict()
        assert (converted.layout, converted.by_keys, converted.part) == (layout, True, asked or part)
        assert converted.model_name == "resnet18" and own.keys() == expected.keys()
        assert all(torch.equal(own[key], tensor) for key, tensor in expected.items())
        assert len(converted.ledger.converted) == len(own)
        assert sum(map(len, converted.ledger.dropped.values())) == tensors_in(content) - len(own)
        assert converted.origin is ORIGINS[name if name in ("moco_v1", "moco_v2") else layout]
        method = {"solo": "mocov2plus", "solo_simclr": "simclr"}.get(name)
        assert converted.ledger.notes == ([f"method, as its settings say: {method}"] if method else [])


def vissl():
    """Its file holds objects of foreign classes."""
    layout, part, _, content = TEACHERS["vissl"]
    return Case(content, layout, lambda: teachers.network(seed=1)(IMAGES), part)


def vit():
    network = teachers.network("vit_tiny_patch16_224", seed=3)
    content = teachers.dino(network.state_dict(), network.state_dict())
    words = "model: vit_tiny_patch16_224"
    return Case(content, "dino", lambda: network(images(224)), "teacher", words=words, size=224)


def classifier():
    weights = teachers.network(seed=1).state_dict() | linear(512, 10, "fc")
    return Case({"state_dict": under("module.", weights)}, "encoder",
                lambda: classified(teachers.network(seed=1)(IMAGES), weights, "fc"), words="10 classes")


def lite():
    """The first block has no expansion; the classifier is kept."""
    network = teachers.network("tf_efficientnet_lite0", num_classes=12)
    words = "model: tf_efficientnet_lite0, 12 classes"
    return Case(teachers.lite(network.state_dict()), "efficientnet_lite", lambda: network(IMAGES), words=words)


# binary networks


def classified(features, weights, at):
    return F.linear(features, weights[f"{at}.weight"].to(features), weights[f"{at}.bias"].to(features))


def reactnet(pooled, weights, width, stage, *options, words=""):
    weights |= linear(width, 10, "fc")
    content = {"epoch": 255, "state_dict": under("module.", weights), "best_top1_acc": torch.tensor(69.4),
               "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}}
    return Case(content, "reactnet", lambda: classified(pooled(IMAGES, weights, stage == "w1a1"), weights, "fc"),
                stage=stage, options=options, words=words)


def reactnet_a(stage, flat, *options):
    """Only flat weights tell the stage; what the user says comes first."""
    return reactnet(originals.pooled_a, originals.reactnet_a(8, flat=flat), 256, stage, *options,
                    words="model: reactnet_a_025, 10 classes")


def reactnet_18(stage, depths, scaled=False):
    weights = originals.reactnet_18((8, 16, 32, 64), depths)
    for name in weights if scaled else ():
        if "binary_conv" in name:  # scaled signs, which nothing but 1-bit training gives, tell the stage
            scales = 0.01 * (1 + torch.arange(len(weights[name])))
            weights[name] = torch.sign(weights[name]) * scales[:, None, None, None]
    return reactnet(originals.pooled_18, weights, 64, stage, *(() if scaled else ("--stage", stage)))


def s2bnn(stage, part):
    """Every block has both forms of the 1x1; only the width tells which one is used."""
    mlp = linear(256, 256, "fc.0") | linear(256, 16, "fc.2")
    encoders = {name: originals.reactnet_a(8, both=True) for name in ("encoder_q", "encoder_k")}
    content = {"module.queue": torch.randn(16, 64), "module.queue_ptr": torch.tensor([3])}
    for name, weights in encoders.items():
        content |= under(f"module.{name}.", weights | mlp)
    return Case({"epoch": 200, "state_dict": content}, "s2bnn",
                lambda: originals.pooled_a(IMAGES, encoders[part], stage == "w1a1"), part, stage,
                ("--stage", stage, "--part", part), words="126 dropped: branches that no block uses")


def s2bnn_linear():
    """Its linear evaluation keeps the classifier."""
    weights = originals.reactnet_a(8, both=True) | linear(256, 10, "fc")
    return Case(under("module.", weights), "s2bnn",
                lambda: classified(originals.pooled_a(IMAGES, weights, True), weights, "fc"), "network", "w1a1",
                ("--stage", "w1a1"))


def burn(form, stage, keep):
    """The configuration in a whole file tells the stage; `backbone` and `online_net.0` are the same network. In a
    linear evaluation hidden layer and classifier belong together."""
    weights = originals.reactnet_a(8) | linear(256, 256, "fc.0")
    kind = "ReActnet" if stage == "w1a1" else "ReActnet_Binact"
    told = {"meta": {"config": f"model = dict(\n    backbone=dict(\n        type='{kind}',\n"}, "author": "OpenSelfSup"}
    probe = linear(256, 10, "head.fc_cls")
    content = {
        "whole": {**told, "state_dict": under("module.", burn_whole(weights))},
        "multi": {"backbone": {"state_dict": weights}, "classifier": {"state_dict": neck(256, "")},
                  "teacher_classifier": {"state_dict": neck(2048, "")}},
        "backbone": {"state_dict": weights},
        "linear": {**told, "state_dict": under("backbone.", weights) | probe},
    }[form]

    def expected():
        features = originals.pooled_a(IMAGES, weights, stage == "w1a1")
        features = classified(features, weights, "fc.0").relu() if keep else features
        return classified(features, probe, "head.fc_cls") if keep and form == "linear" else features

    options = (*(("--keep-hidden",) if keep else ()), *(() if "meta" in content else ("--stage", stage)))
    words = "head_hidden_size 256" if keep else "2 dropped: hidden layer of the head; --keep-hidden keeps it"
    return Case(content, "burn", expected, "network" if form == "backbone" else "backbone", stage, options, words)


def burn_whole(weights):
    teacher = teachers.network(seed=1).state_dict()
    return (under("backbone.", weights) | under("online_net.0.", weights) | neck(256, "online_net.1.")
            | under("diff_branch_net.0.", teacher) | neck(2048, "diff_branch_net.1."))


def burn_teacher():
    whole = burn_whole(originals.reactnet_a(8) | linear(256, 256, "fc.0"))
    return Case({"state_dict": whole}, "burn", lambda: teachers.network(seed=1)(IMAGES), "teacher",
                options=("--part", "teacher"), words="the paper's is MoCo v2's ResNet-50")


CASES = {
    "vissl": (vissl,), "vit": (vit,), "classifier": (classifier,), "lite": (lite,),
    "reactnet_a-w1a1": (reactnet_a, "w1a1", True),
    "reactnet_a-w32a1": (reactnet_a, "w32a1", False, "--stage", "w32a1"),
    "reactnet_18-w1a1": (reactnet_18, "w1a1", (4, 4, 4, 4), True),
    "reactnet_34-w32a1": (reactnet_18, "w32a1", (6, 8, 12, 6)),
    "s2bnn-w1a1": (s2bnn, "w1a1", "encoder_q"), "s2bnn-w32a1": (s2bnn, "w32a1", "encoder_k"),
    "s2bnn-linear": (s2bnn_linear,), "burn-teacher": (burn_teacher,), "burn-linear": (burn, "linear", "w32a1", False),
    "burn-linear-hidden": (burn, "linear", "w1a1", True), "burn-whole-hidden": (burn, "whole", "w1a1", True),
    "burn-multi-w32a1": (burn, "multi", "w32a1", False), "burn-backbone-hidden": (burn, "backbone", "w1a1", True),
}


@pytest.mark.parametrize("name", CASES)
def test_a_converted_file_computes_what_the_original_computes(tmp_path, capsys, name):
    torch.manual_seed(0)
    make, *args = CASES[name]
    case = make(*args)
    path, folder = tmp_path / "checkpoint.pth.tar", tmp_path / "out"
    torch.save(case.content, path)
    assert main(["convert", str(path), str(folder), *case.options]) == 0
    out = capsys.readouterr().out

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        expected, inputs = case.expected(), images(case.size)
        given = model.double()(inputs.double()) if expected.dtype == torch.float64 else model(inputs)
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)
    if case.stage:
        assert (model.weight_bits, model.act_bits) == (1 if case.stage == "w1a1" else 32, 1)
        assert is_packed(read_tensors(folder / "model.safetensors")[0]) == (case.stage == "w1a1")
    if case.layout == "burn" and case.stage:
        assert {module.act_grad for module in model.modules() if hasattr(module, "act_grad")} == {"clip"}

    stage = f", stage {case.stage}" if case.stage else ""
    assert f"layout: {case.layout}, by its keys; part {case.part}{stage}\n" in out and case.words in out
    total, *others = map(int, re.findall(r"^(\d+) (?:tensors in the file|dropped)", out, re.M))
    assert total == tensors_in(case.content)
    assert f" {total - sum(others)} converted\n" in out

    origin = ORIGINS[case.layout]
    card, licence = ModelCard.load(folder / "README.md"), (folder / "LICENSE").read_text()
    assert card.data.license == origin.license and f"licence: {origin.license}. " in out
    assert all(str(origin) in text for text in (out, card.text, licence))
    assert ("Permission is hereby granted" in licence) == (origin.license == "mit") and origin.holder in licence
    config = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    usual = ([0.5] * 3, "bicubic") if case.layout == "efficientnet_lite" else (
        [0.485, 0.456, 0.406], origin.interpolation)
    assert (config["mean"], config["interpolation"]) == usual
    assert config["crop_pct"] == 0.875 and "test_input_size" not in config


def tensors_in(value):
    if isinstance(value, (dict, list)):
        return sum(map(tensors_in, value.values() if isinstance(value, dict) else value))
    return isinstance(value, torch.Tensor)


def test_every_layout_that_we_know_is_here():
    binary = {"reactnet", "s2bnn", "burn"}
    assert binary | {"efficientnet_lite"} | {layout for layout, *_ in TEACHERS.values()} == set(NAMES)


@pytest.mark.parametrize("name", [
    "resnet34", "wide_resnet50_2", "resnext50_32x4d", "vit_base_patch8_224", "tf_efficientnet_lite1",
    "tf_efficientnet_lite2",
])
def test_the_model_is_told_by_its_shapes(name):
    model = timm.create_model(name, num_classes=0, device="meta")
    weights = {key: torch.zeros(()).expand(tensor.shape) for key, tensor in model.state_dict().items()}
    file = teachers.lite(weights) if "lite" in name else weights
    converted = convert_source(source_of(Path("file.pth"), file))
    assert converted.model_name == name and converted.state_dict.keys() == weights.keys()


def test_the_small_vit_of_moco_v3_has_twelve_heads():
    """Its tensors do not tell; with timm's 6 the features would be others."""
    model = timm.create_model("vit_small_patch16_224", num_classes=0, device="meta")
    weights = {key: torch.zeros(()).expand(tensor.shape) for key, tensor in model.state_dict().items()}
    converted = convert_source(source_of(Path("file.pth"), under("module.base_encoder.", weights)))
    assert (converted.layout, converted.model_args) == ("mocov3", {"num_heads": 12})


def test_old_and_small_files_are_completed():
    weights = teachers.network(seed=1).state_dict()
    few = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()
           if "num_batches" not in name}
    converted = convert_source(source_of(Path("file.pth"), few))
    assert converted.state_dict.keys() == weights.keys()
    assert torch.equal(converted.state_dict["conv1.weight"], few["conv1.weight"].float())


def test_a_converted_reactnet_34_unpacks_and_packs_again_and_reports_weights_of_0(tmp_path, capsys):
    """Its shape is that of no registered name: config.json tells it."""
    weights = originals.reactnet_18((8, 16, 32, 64), (6, 8, 12, 6)) | linear(64, 10, "fc")
    weights["layer1.0.binary_conv.weight"][0, 0, 0, 0] = 0
    torch.save(weights, tmp_path / "x.pth")
    out, floats, again = (str(tmp_path / name) for name in ("out", "floats", "again"))
    assert main(["convert", str(tmp_path / "x.pth"), out, "--stage", "w1a1"]) == 0
    assert "1 binary weights are exactly 0" in capsys.readouterr().out
    assert main(["unpack", out, floats]) == main(["pack", floats, again]) == 0
    for name in ("model.safetensors", "README.md", "LICENSE"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
