"""Converted ReActNet, S2-BNN and BURN checkpoints compute what the originals compute, through the command line."""

import json

import pytest
import timm
import torch
import torch.nn.functional as F

from burn_timm.cli import main
from burn_timm.packing import is_packed, read_tensors

from . import originals
from .originals import linear, neck, under

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(7))


def convert(path, content, *options):
    """Save `content`, convert it by the command line, and load the folder as timm does; in float64."""
    torch.save(content, path / "checkpoint.pth.tar")
    arguments = ["convert", str(path / "checkpoint.pth.tar"), str(path / "out"), *options]
    assert main(arguments) == 0
    return timm.create_model(f"local-dir:{path / 'out'}", pretrained=True).eval().double()


def agrees(model, expected, packed):
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES.double()), expected, rtol=1e-5, atol=1e-5)
    bits = 1 if packed else 32
    assert (model.weight_bits, model.act_bits) == (bits, 1)


def is_packed_folder(folder):
    return is_packed(read_tensors(folder / "model.safetensors")[0])


def classified(pooled, weights, at):
    return F.linear(pooled, weights[f"{at}.weight"].double(), weights[f"{at}.bias"].double())


@pytest.mark.parametrize("one_bit", [True, False], ids=["w1a1", "w32a1"])
def test_reactnet_a(tmp_path, capsys, one_bit):
    """Step 1 has `weight`, step 2 `weights`: the stage is told by the keys."""
    weights = originals.reactnet_a(8, flat=one_bit) | linear(256, 10, "fc")
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    content = {"epoch": 255, "state_dict": under("module.", weights), "best_top1_acc": torch.tensor(69.4),
               "optimizer": optimizer}
    model = convert(tmp_path, content)
    agrees(model, classified(originals.pooled_a(IMAGES, weights, one_bit), weights, "fc"), one_bit)
    assert is_packed_folder(tmp_path / "out") == one_bit
    out = capsys.readouterr().out
    stage = "w1a1" if one_bit else "w32a1"
    assert f"layout: reactnet, by its keys; part network, stage {stage}" in out
    assert "model: reactnet_a_025, 10 classes" in out
    assert f"{len(weights) + 2} tensors in the file: {len(weights)} converted" in out
    assert "2 dropped: optimiser and training state" in out


def test_reactnet_a_at_its_full_size(tmp_path):
    weights = originals.reactnet_a(32, flat=True) | linear(1024, 1000, "fc")
    model = convert(tmp_path, {"state_dict": under("module.", weights)})
    agrees(model, classified(originals.pooled_a(IMAGES, weights, True), weights, "fc"), True)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["architecture"], config["num_classes"]) == ("reactnet_a", 1000)
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < 8_100_000


@pytest.mark.parametrize("one_bit", [True, False], ids=["w1a1", "w32a1"])
@pytest.mark.parametrize("depths", [(4, 4, 4, 4), (6, 8, 12, 6)], ids=["18", "34"])
def test_reactnet_18_and_34(tmp_path, one_bit, depths):
    weights = originals.reactnet_18((8, 16, 32, 64), depths) | linear(64, 10, "fc")
    model = convert(tmp_path, under("module.", weights), "--stage", "w1a1" if one_bit else "w32a1")
    agrees(model, classified(originals.pooled_18(IMAGES, weights, one_bit), weights, "fc"), one_bit)
    assert [len(stage) for stage in model.stages] == list(depths)


def test_reactnet_18_of_the_published_size_is_the_model_of_that_name(tmp_path):
    weights = originals.reactnet_18() | linear(512, 10, "fc")
    model = convert(tmp_path, under("module.", weights), "--stage", "w1a1")
    agrees(model, classified(originals.pooled_18(IMAGES, weights, True), weights, "fc"), True)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architecture"] == "reactnet_18" and "depths" not in config["model_args"]


@pytest.mark.parametrize("one_bit", [True, False], ids=["w1a1", "w32a1"])
@pytest.mark.parametrize("part", ["encoder_q", "encoder_k"])
def test_s2bnn(tmp_path, capsys, one_bit, part):
    """Every block has both forms of the 1x1; only the width tells which one is used."""
    queries, keys = (originals.reactnet_a(8, both=True) for _ in range(2))
    mlp = linear(256, 256, "fc.0") | linear(256, 16, "fc.2")
    content = under("module.encoder_q.", queries | mlp) | under("module.encoder_k.", keys | mlp)
    content |= {"module.queue": torch.randn(16, 64), "module.queue_ptr": torch.tensor([3])}
    content = {"epoch": 200, "arch": "resnet50", "state_dict": content}
    model = convert(tmp_path, content, "--stage", "w1a1" if one_bit else "w32a1", "--part", part)
    agrees(model, originals.pooled_a(IMAGES, queries if part == "encoder_q" else keys, one_bit), one_bit)
    out = capsys.readouterr().out
    assert "layout: s2bnn" in out and "no classifier" in out
    for line in ("dropped: branches that no block uses", "dropped: the other encoder", "2 dropped: queue of negatives",
                 "4 dropped: projection head"):
        assert line in out


def test_s2bnn_linear_evaluation_keeps_its_classifier(tmp_path):
    weights = originals.reactnet_a(8, both=True) | linear(256, 10, "fc")
    model = convert(tmp_path, {"state_dict": under("module.", weights)}, "--stage", "w1a1")
    agrees(model, classified(originals.pooled_a(IMAGES, weights, True), weights, "fc"), True)


def burn(teacher="resnet18"):
    """A whole BURN checkpoint's state dict: `backbone` and `online_net.0` are the same network."""
    weights = originals.reactnet_a(8) | linear(256, 256, "fc.0")
    teacher = timm.create_model(teacher, num_classes=0)
    for tensor in teacher.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.copy_(0.5 + torch.rand_like(tensor))
    whole = under("backbone.", weights) | under("online_net.0.", weights) | neck(256, "online_net.1.")
    whole |= under("diff_branch_net.0.", teacher.state_dict()) | neck(2048, "diff_branch_net.1.")
    return weights, teacher, whole


def config_of(stage):
    kind = "ReActnet" if stage == "w1a1" else "ReActnet_Binact"
    text = f"model = dict(\n    type='BURN',\n    backbone=dict(\n        type='{kind}',\n        use_mlp=True))"
    return {"meta": {"epoch": 200, "config": text}}


@pytest.mark.parametrize("stage", ["w1a1", "w32a1"])
@pytest.mark.parametrize("keep", [True, False], ids=["keep-hidden", "headless"])
def test_burn_whole(tmp_path, capsys, stage, keep):
    """The configuration in the file tells the stage."""
    weights, _, whole = burn()
    options = ["--keep-hidden"] if keep else []
    model = convert(tmp_path, {"state_dict": under("module.", whole), **config_of(stage)}, *options)
    expected = originals.pooled_a(IMAGES, weights, stage == "w1a1")
    if keep:
        expected = classified(expected, weights, "fc.0").relu()
        assert model.head_hidden_size == 256
    agrees(model, expected, stage == "w1a1")
    assert {module.act_grad for module in model.modules() if hasattr(module, "act_grad")} == {"clip"}
    out = capsys.readouterr().out
    assert ("hidden layer" in out) != keep
    for line in ("dropped: the same network as backbone", "student's classifier", "teacher's classifier",
                 "dropped: teacher; --part teacher converts it", "licence: cc-by-nc-4.0"):
        assert line in out


def test_burns_teacher(tmp_path):
    _, teacher, whole = burn("resnet50")
    model = convert(tmp_path, {"state_dict": whole}, "--part", "teacher")
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES.double()), teacher.eval().double()(IMAGES.double()))


@pytest.mark.parametrize("form", ["multi", "backbone"])
@pytest.mark.parametrize("keep", [True, False], ids=["keep-hidden", "headless"])
def test_burn_extracted(tmp_path, form, keep):
    weights, _, _ = burn()
    if form == "multi":
        content = {"backbone": {"state_dict": weights}, "classifier": {"state_dict": neck(256, "")},
                   "teacher_classifier": {"state_dict": neck(2048, "")}, "author": "OpenSelfSup"}
    else:
        content = {"state_dict": weights, "author": "OpenSelfSup"}
    model = convert(tmp_path, content, "--stage", "w1a1", *(["--keep-hidden"] if keep else []))
    expected = originals.pooled_a(IMAGES, weights, True)
    agrees(model, classified(expected, weights, "fc.0").relu() if keep else expected, True)


def test_burns_linear_evaluation_keeps_hidden_layer_and_classifier_together(tmp_path, capsys):
    weights, _, _ = burn()
    content = under("backbone.", weights) | linear(256, 10, "head.fc_cls")
    model = convert(tmp_path, {"state_dict": content, **config_of("w1a1")}, "--keep-hidden")
    hidden = classified(originals.pooled_a(IMAGES, weights, True), weights, "fc.0").relu()
    agrees(model, classified(hidden, content, "head.fc_cls"), True)
    capsys.readouterr()
    model = convert(tmp_path, {"state_dict": content, **config_of("w1a1")})
    assert model.num_classes == 0
    assert "2 dropped: classifier behind the hidden layer" in capsys.readouterr().out


def test_scaled_signs_tell_their_stage(tmp_path):
    weights = originals.reactnet_18((8, 16, 32, 64)) | linear(64, 10, "fc")
    for name in weights:
        if "binary_conv" in name:
            scales = 0.01 * (1 + torch.arange(len(weights[name])))
            weights[name] = torch.sign(weights[name]) * scales[:, None, None, None]
    model = convert(tmp_path, weights)
    agrees(model, classified(originals.pooled_18(IMAGES, weights, True), weights, "fc"), True)


def test_a_weight_of_0_is_reported(tmp_path, capsys):
    weights = originals.reactnet_a(8, flat=True) | linear(256, 10, "fc")
    weights["feature.3.binary_3x3.weights"][5] = 0
    convert(tmp_path, weights)
    assert "1 binary weights are exactly 0" in capsys.readouterr().out


def test_a_converted_reactnet_34_unpacks_and_packs_again(tmp_path):
    """Its shape is that of no registered name: config.json tells it."""
    weights = originals.reactnet_18((8, 16, 32, 64), (6, 8, 12, 6)) | linear(64, 10, "fc")
    convert(tmp_path, weights, "--stage", "w1a1")
    out, floats, again = (str(tmp_path / name) for name in ("out", "floats", "again"))
    assert main(["unpack", out, floats]) == main(["pack", floats, again]) == 0
    for name in ("model.safetensors", "README.md", "LICENSE"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
