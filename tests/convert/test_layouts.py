"""A file of every layout through `burn-timm convert`: the network computes what the original computes, each tensor is
accounted for in the report, and the folder says where the weights are from."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard

from burn_timm.cli import main
from burn_timm.convert.detect import NAMES, convert_source
from burn_timm.convert.origins import ORIGINS
from burn_timm.convert.source import source_of
from burn_timm.packing import is_packed, read_tensors

from . import originals, teachers
from .originals import linear, neck, under
from .teachers import TEACHERS, N

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(7))


@dataclass
class Case:
    """A file, the options, and what must come of it. `dropped`: count by reason, all of them."""

    content: object
    layout: str
    expected: Callable[[], torch.Tensor]
    part: str = "network"
    dropped: dict[str, int] = field(default_factory=dict)
    stage: str = ""
    options: tuple[str, ...] = ()
    origin: str = ""
    words: str = ""


# teachers


def teacher(name):
    layout, part, dropped, _ = TEACHERS[name]
    return Case(
        teachers.teacher_file(name), layout, lambda: teachers.network(seed=1)(IMAGES), part, dropped,
        origin={"moco_v1": "moco_v1", "moco_v2": "moco_v2"}.get(name, layout),
        words={"solo": "settings say: mocov2plus", "solo_simclr": "settings say: simclr"}.get(name, ""),
    )


def vit():
    network = teachers.network("vit_tiny_patch16_224", seed=3)
    content = TEACHERS["dino"][-1](network.state_dict(), network.state_dict())
    dropped = {"optimiser and training state": 1, "another encoder; --part student converts it": 150,
               "projection head": 6}
    return Case(content, "dino", lambda: network(F.interpolate(IMAGES, 224)), "teacher", dropped,
                words="model: vit_tiny_patch16_224")


def classifier():
    weights = teachers.network(seed=1).state_dict() | linear(512, 10, "fc")
    return Case({"state_dict": under("module.", weights)}, "encoder",
                lambda: classified(teachers.network(seed=1)(IMAGES), weights, "fc"), words="10 classes")


# binary networks


def classified(features, weights, at):
    return F.linear(features, weights[f"{at}.weight"].to(features), weights[f"{at}.bias"].to(features))


def reactnet(pooled, weights, width, stage, *options, words=""):
    weights |= linear(width, 10, "fc")
    content = {"epoch": 255, "state_dict": under("module.", weights), "best_top1_acc": torch.tensor(69.4),
               "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}}
    return Case(content, "reactnet", lambda: classified(pooled(IMAGES, weights, stage == "w1a1"), weights, "fc"),
                dropped={"optimiser and training state": 2}, stage=stage, options=options, words=words)


def reactnet_a(stage, flat, *options):
    """Only flat weights tell the stage; what the user says comes first."""
    return reactnet(originals.pooled_a, originals.reactnet_a(8, flat=flat), 256, stage, *options,
                    words="model: reactnet_a_025, 10 classes")


def reactnet_18(stage, depths, scaled=False, widths=(8, 16, 32, 64)):
    weights = originals.reactnet_18(widths, depths)
    for name in weights if scaled else ():
        if "binary_conv" in name:  # scaled signs, which nothing but 1-bit training gives, tell the stage
            scales = 0.01 * (1 + torch.arange(len(weights[name])))
            weights[name] = torch.sign(weights[name]) * scales[:, None, None, None]
    return reactnet(originals.pooled_18, weights, widths[-1], stage, *(() if scaled else ("--stage", stage)))


def s2bnn(stage, part):
    """Every block has both forms of the 1x1; only the width tells which one is used."""
    mlp = linear(256, 256, "fc.0") | linear(256, 16, "fc.2")
    encoders = {name: originals.reactnet_a(8, both=True) for name in ("encoder_q", "encoder_k")}
    content = {"module.queue": torch.randn(16, 64), "module.queue_ptr": torch.tensor([3])}
    for name, weights in encoders.items():
        content |= under(f"module.{name}.", weights | mlp)
    other = {"encoder_q": "encoder_k", "encoder_k": "encoder_q"}[part]
    dropped = {"branches that no block uses": 126, f"the other encoder; --part {other} converts it": 426,
               "queue of negatives": 2, "projection head": 4}
    return Case({"epoch": 200, "state_dict": content}, "s2bnn",
                lambda: originals.pooled_a(IMAGES, encoders[part], stage == "w1a1"), part, dropped, stage,
                ("--stage", stage, "--part", part))


def s2bnn_linear():
    """Its linear evaluation keeps the classifier."""
    weights = originals.reactnet_a(8, both=True) | linear(256, 10, "fc")
    return Case(under("module.", weights), "s2bnn",
                lambda: classified(originals.pooled_a(IMAGES, weights, True), weights, "fc"), "network",
                {"branches that no block uses": 126}, "w1a1", ("--stage", "w1a1"))


def burn_file():
    """Student's weights, and a whole BURN checkpoint: `backbone` and `online_net.0` are the same network."""
    weights = originals.reactnet_a(8) | linear(256, 256, "fc.0")
    whole = under("backbone.", weights) | under("online_net.0.", weights) | neck(256, "online_net.1.")
    whole |= under("diff_branch_net.0.", teachers.network(seed=1).state_dict()) | neck(2048, "diff_branch_net.1.")
    return weights, whole


def config_of(stage):
    kind = "ReActnet" if stage == "w1a1" else "ReActnet_Binact"
    return {"meta": {"epoch": 200, "config": f"model = dict(\n    backbone=dict(\n        type='{kind}',\n"}}


def burn(form, stage, keep):
    """The configuration in a whole file tells the stage."""
    weights, whole = burn_file()
    dropped = {} if keep else {"hidden layer of the head; --keep-hidden keeps it": 2}
    options = ("--keep-hidden",) if keep else ()
    if form == "whole":
        content = {"state_dict": under("module.", whole), **config_of(stage)}
        dropped |= {"the same network as backbone": 298, "student's classifier": 9,
                    "teacher; --part teacher converts it": N, "teacher's classifier": 9}
    elif form == "multi":
        content = {"backbone": {"state_dict": weights}, "classifier": {"state_dict": neck(256, "")},
                   "teacher_classifier": {"state_dict": neck(2048, "")}, "author": "OpenSelfSup"}
        dropped |= {"student's classifier": 9, "teacher's classifier": 9}
    else:
        content = {"state_dict": weights, "author": "OpenSelfSup"}

    def expected():
        pooled = originals.pooled_a(IMAGES, weights, stage == "w1a1")
        return classified(pooled, weights, "fc.0").relu() if keep else pooled

    options += () if form == "whole" else ("--stage", stage)
    words = "head_hidden_size 256" if keep else ""
    return Case(content, "burn", expected, "backbone", dropped, stage, options, words=words)


def burn_linear(keep):
    """Its linear evaluation: hidden layer and classifier belong together."""
    weights, _ = burn_file()
    content = under("backbone.", weights) | linear(256, 10, "head.fc_cls")

    def expected():
        pooled = originals.pooled_a(IMAGES, weights, True)
        return classified(classified(pooled, weights, "fc.0").relu(), content, "head.fc_cls") if keep else pooled

    dropped = {} if keep else {"hidden layer of the head; --keep-hidden keeps it": 2,
                               "classifier behind the hidden layer": 2}
    return Case({"state_dict": content, **config_of("w1a1")}, "burn", expected, "backbone", dropped, "w1a1",
                ("--keep-hidden",) if keep else ())


def burn_teacher():
    return Case({"state_dict": burn_file()[1]}, "burn", lambda: teachers.network(seed=1)(IMAGES), "teacher",
                {"student and heads; --part backbone converts it": 298 * 2 + 9 * 2}, options=("--part", "teacher"),
                words="the paper's is MoCo v2's ResNet-50")


CASES = {
    **{name: (teacher, name) for name in TEACHERS}, "vit": (vit,), "classifier": (classifier,),
    "reactnet_a-w1a1": (reactnet_a, "w1a1", True), "reactnet_a-4d-w1a1": (reactnet_a, "w1a1", False, "--stage", "w1a1"),
    "reactnet_a-w32a1": (reactnet_a, "w32a1", False, "--stage", "w32a1"),
    "reactnet_18-w1a1": (reactnet_18, "w1a1", (4, 4, 4, 4), False, (64, 128, 256, 512)),
    "reactnet_34-w32a1": (reactnet_18, "w32a1", (6, 8, 12, 6)),
    "reactnet_18-scaled": (reactnet_18, "w1a1", (4, 4, 4, 4), True),
    "s2bnn-w1a1": (s2bnn, "w1a1", "encoder_q"), "s2bnn-w32a1": (s2bnn, "w32a1", "encoder_k"),
    "s2bnn-linear": (s2bnn_linear,), "burn-teacher": (burn_teacher,), "burn-linear": (burn_linear, False),
    "burn-linear-hidden": (burn_linear, True),
    **{f"burn-{form}-{stage}-{keep}": (burn, form, stage, keep) for form in ("whole", "multi", "backbone")
       for stage, keep in (("w1a1", True), ("w32a1", False))},
}


def test_every_layout_that_we_know_is_here():
    assert {layout for layout, *_ in TEACHERS.values()} | {"reactnet", "s2bnn", "burn"} == set(NAMES)


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
    images = IMAGES if name != "vit" else F.interpolate(IMAGES, 224)
    with torch.no_grad():
        expected = case.expected()
        given = model.double()(images.double()) if expected.dtype == torch.float64 else model(images)
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)
    if case.stage:
        assert (model.weight_bits, model.act_bits) == (1 if case.stage == "w1a1" else 32, 1)
        assert is_packed(read_tensors(folder / "model.safetensors")[0]) == (case.stage == "w1a1")
    if case.layout == "burn" and case.stage:
        assert {module.act_grad for module in model.modules() if hasattr(module, "act_grad")} == {"clip"}

    stage = f", stage {case.stage}" if case.stage else ""
    assert f"layout: {case.layout}, by its keys; part {case.part}{stage}\n" in out and case.words in out
    total = sum(1 for value in leaves(case.content) if isinstance(value, torch.Tensor))
    assert f"{total} tensors in the file: {total - sum(case.dropped.values())} converted\n" in out
    assert out.count(" dropped: ") == len(case.dropped)
    assert all(f"{count} dropped: {reason} (" in out for reason, count in case.dropped.items())

    origin = ORIGINS[case.origin or case.layout]
    card, licence = ModelCard.load(folder / "README.md"), (folder / "LICENSE").read_text()
    assert card.data.license == origin.license and f"licence: {origin.license}. " in out
    assert all(str(origin) in text for text in (out, card.text, licence))
    assert ("Permission is hereby granted" in licence) == (origin.license == "mit") and origin.holder in licence
    config = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    assert (config["mean"], config["crop_pct"]) == ([0.485, 0.456, 0.406], 0.875)
    assert config["interpolation"] == origin.interpolation and "test_input_size" not in config


def leaves(value):
    if isinstance(value, (dict, list)):
        for inside in value.values() if isinstance(value, dict) else value:
            yield from leaves(inside)
    else:
        yield value


@pytest.mark.parametrize("maker, part", [
    ("moco_v1", "encoder_k"), ("byol_openselfsup", "target"), ("byol_sequential", "target"), ("dino", "student"),
    ("byol_lightning", "target"), ("byol_lucidrains", "target"), ("solo", "momentum_backbone"),
    ("lightly", "backbone_momentum"), ("lightly_dino", "student_backbone"), ("lightly_moco", "key_backbone"),
])
def test_another_part(maker, part):
    other = teachers.network(seed=2).state_dict()
    converted = convert_source(source_of(Path("file.pth"), teachers.teacher_file(maker)), part=part)
    assert converted.state_dict.keys() == other.keys()
    assert all(torch.equal(converted.state_dict[name], other[name]) for name in other)


@pytest.mark.parametrize("name", ["resnet34", "resnet101", "wide_resnet50_2", "resnext50_32x4d", "vit_base_patch8_224"])
def test_the_model_is_told_by_its_shapes(name):
    model = timm.create_model(name, num_classes=0, device="meta")
    weights = {key: torch.zeros(()).expand(tensor.shape) for key, tensor in model.state_dict().items()}
    converted = convert_source(source_of(Path("file.pth"), weights))
    assert converted.model_name == name and converted.state_dict.keys() == weights.keys()


def test_old_and_small_files_are_completed(tmp_path):
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
