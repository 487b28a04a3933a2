"""Every wrong input is one line that names the file, the tensor or the option; nothing is written."""

import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from burn_timm.cli import main

from . import originals
from .originals import linear, neck, under


@pytest.fixture
def fails(tmp_path, capsys):
    """Convert `content` by the command line; the one line on stderr, after the file's name."""
    def run(content, *options):
        path = tmp_path / "checkpoint.pth"
        if content is not None:
            torch.save(content, path)
        assert main(["convert", str(path), str(tmp_path / "out"), *options]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
        return err.removeprefix("burn-timm convert: ").removeprefix(f"{path}: ").rstrip("\n")

    return run


def a(**kwargs):
    return originals.reactnet_a(8, **kwargs) | linear(256, 10, "fc")


def resnet(classes=0):
    return timm.create_model("resnet18", num_classes=classes).state_dict()


# the file


def test_no_such_file(fails):
    assert fails(None) == "no such file"


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_truncated_file(fails, tmp_path, legacy):
    path = tmp_path / "checkpoint.pth"
    torch.save(a(), path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:5000])
    message = fails(None)
    assert message.startswith("truncated") and message.endswith("copy or download the file again")


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", bytes(range(256)), b"PK\x03\x04nothing"])
def test_garbage(fails, tmp_path, data):
    (tmp_path / "checkpoint.pth").write_bytes(data)
    assert fails(None).startswith("truncated or damaged")


def test_a_pickle_that_would_run_code(fails, tmp_path):
    class Harmful:
        def __reduce__(self):
            return exec, ("import pathlib; pathlib.Path('ran').touch()",)

    path = tmp_path / "checkpoint.pth"
    with open(path, "wb") as file:
        pickle.dump(Harmful(), file, protocol=2)
    fails(None)
    assert not Path("ran").exists()


@pytest.mark.parametrize("content,message", [
    (torch.zeros(3), "holds no weights by name but Tensor"),
    ([1, 2], "holds no weights by name but list"),
    ({"epoch": 3, "arch": "resnet50"}, "holds no weights; its entries are epoch, arch"),
    ({"optimizer": {"state": {0: torch.zeros(3)}}}, "holds no weights; its entries are optimizer"),
])
def test_no_weights(fails, content, message):
    assert fails(content).startswith(message)


def test_values_that_are_not_finite(fails):
    weights = a(flat=True)
    weights["feature.2.bn1.running_var"][0] = float("nan")
    assert fails({"state_dict": weights}).startswith("state_dict.feature.2.bn1.running_var holds NaN")


def test_one_weight_twice(fails):
    weights = resnet()
    message = fails({"state_dict": weights | under("module.", weights)})
    assert message.startswith("state_dict.conv1.weight and state_dict.module.conv1.weight are the same weight")


# the layout


def test_an_unknown_layout_lists_the_known_ones(fails):
    message = fails(timm.create_model("test_efficientnet").state_dict())
    assert message.startswith("its keys (conv_stem.weight, ...) fit no known layout; give one by --from: reactnet, s2")


def test_an_ambiguous_layout_names_those_that_fit(fails):
    weights = under("encoder_q.", resnet()) | under("trunk._feature_blocks.", resnet())
    assert fails(weights).startswith("its keys fit moco and vissl; give one by --from: ")


@pytest.mark.parametrize("make,layout,message", [
    (a, "moco", "--from moco, but it holds binary convolutions"),
    (resnet, "burn", "--from burn, but it holds no binary convolutions"),
])
def test_the_wrong_kind_of_layout(fails, make, layout, message):
    assert fails(make(), "--from", layout) == message


@pytest.mark.parametrize("layout", ["reactnet", "burn"])
def test_the_wrong_binary_layout(fails, layout):
    content = under("module.encoder_q.", originals.reactnet_a(8, both=True))
    message = fails(content, "--from", layout, "--stage", "w1a1")
    assert "feature.0.conv1.weight is missing" in message and "--from" in message


def test_no_encoder_of_that_layout(fails):
    message = fails(under("encoder_q.", resnet()), "--from", "dino")
    assert message.startswith("no encoder of a dino file in it; it has encoder_q.conv1.weight")


@pytest.mark.parametrize("make,extra", [
    (lambda: under("module.", a(flat=True)), "module.feature.3.gate.weight"),
    (lambda: under("module.encoder_q.", resnet()), "module.adapter.weight"),
    (resnet, "layer4.1.se.weight"),
])
def test_a_tensor_that_nobody_knows_is_named(fails, make, extra):
    message = fails({"state_dict": make() | {extra: torch.zeros(2, 2)}})
    assert extra in message and message.count("\n") == 0
    assert "has no place in the layout" in message or "no timm model has its shapes" in message


@pytest.mark.parametrize("name", [
    "feature.0.conv1.weight", "feature.4.binary_pw_down2.weights", "feature.4.bn2_1.running_mean",
    "feature.13.move23.bias", "fc.bias",
])
def test_a_missing_tensor_is_named(fails, name):
    weights = a(flat=True)
    whole = weights.pop(name)
    message = fails({"state_dict": under("module.", weights)}, "--from", "reactnet")
    assert whole is not None and name.removesuffix("s") in message and "is missing" in message


def test_a_block_in_the_middle_is_missing(fails):
    weights = {name: tensor for name, tensor in a(flat=True).items() if not name.startswith("feature.9.")}
    assert fails({"state_dict": weights}) == "feature.9 is missing as a whole; is the file complete?"
    weights = originals.reactnet_18((8, 16, 32, 64)) | linear(64, 10, "fc")
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith("layer2.2.")}
    assert fails(weights, "--stage", "w1a1") == "layer2.2 is missing as a whole; is the file complete?"


def test_a_kernel_of_another_shape(fails):
    weights = a(flat=True)
    weights["feature.5.binary_3x3.weights"] = weights["feature.5.binary_3x3.weights"][:-1]
    assert fails(weights).startswith("feature.5.binary_3x3 is [")


def test_widths_that_timm_does_not_have(fails):
    weights = timm.create_model("resnet18", num_classes=0).state_dict()
    weights = {name: torch.cat([tensor] * 2) if tensor.ndim else tensor for name, tensor in weights.items()}
    message = fails(under("encoder_q.", weights))
    assert message.startswith("no timm model has its shapes; the nearest is resnet") and "conv1.weight" in message


def test_a_stem_for_small_images(fails):
    weights = resnet() | {"conv1.weight": torch.zeros(64, 3, 3, 3)}
    assert fails(under("backbone.", weights) | under("projector.", linear(8, 8, "0"))).startswith(
        "its first convolution is 3x3 (a stem for small images)"
    )


# options


def test_a_stage_that_nothing_tells(fails):
    message = fails(under("module.encoder_q.", originals.reactnet_a(8, both=True)))
    assert message.startswith("nothing in the file tells its stage; pass --stage w1a1")


def test_a_stage_that_the_file_contradicts(fails):
    assert fails(a(flat=True), "--stage", "w32a1") == "--stage w32a1, but the file is of stage w1a1; leave --stage out"
    assert fails(a(), "--stage", "w1a1") == "--stage w1a1, but the file is of stage w32a1; leave --stage out"


def test_options_of_binary_networks_on_a_teacher(fails):
    assert fails(resnet(), "--stage", "w1a1") == "--stage is for binary networks, not for the layout encoder"
    assert fails(resnet(), "--keep-hidden").startswith("--keep-hidden is for binary networks")


def test_parts_that_are_not_there(fails):
    content = under("encoder_q.", resnet()) | under("encoder_k.", resnet())
    assert fails(content, "--part", "teacher") == "--part teacher: this moco file has encoder_q, encoder_k"
    assert fails(a(flat=True), "--part", "teacher") == "--part teacher: a reactnet file of this kind has network"
    content = under("backbone.", originals.reactnet_a(8))
    assert fails(content, "--part", "teacher") == "--part teacher, but there is no diff_branch_net.0. in the file"
    assert fails(content, "--part", "x") == "--part x: a burn file of this kind has backbone, teacher"


def test_a_hidden_layer_that_is_not_there(fails):
    content = under("backbone.", originals.reactnet_a(8))
    message = fails(content, "--keep-hidden", "--stage", "w1a1")
    assert message == "--keep-hidden, but there is no hidden layer backbone.fc.0 in the file"
    assert fails(a(flat=True), "--keep-hidden") == "--keep-hidden is for BURN's hidden layer; a reactnet file has none"


def test_twins_that_differ(fails):
    weights, other = originals.reactnet_a(8), originals.reactnet_a(8)
    content = under("backbone.", weights) | under("online_net.0.", other) | neck(256, "online_net.1.")
    assert "should equal its twin under backbone., but does not" in fails(content, "--stage", "w1a1")


def test_a_licence_that_is_no_identifier(fails):
    assert fails(a(flat=True), "--license", "my own").startswith("--license my own: must be an identifier of the Hub")


def test_a_layout_that_does_not_exist(capsys):
    with pytest.raises(SystemExit):
        main(["convert", "a", "b", "--from", "caffe"])
    assert "invalid choice: 'caffe'" in capsys.readouterr().err


# the destination


def test_a_folder_with_other_files_is_left_alone(tmp_path, capsys):
    torch.save(a(flat=True), tmp_path / "checkpoint.pth")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    arguments = ["convert", str(tmp_path / "checkpoint.pth"), str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "it also holds thesis.tex" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]
    arguments[2] = str(tmp_path / "checkpoint.pth")
    assert main(arguments) == 2
    assert "DST must be a folder" in capsys.readouterr().err


def test_an_earlier_conversion_is_replaced(tmp_path):
    arguments = ["convert", str(tmp_path / "x.safetensors"), str(tmp_path / "out")]
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_file(a(flat=True), tmp_path / "x.safetensors")
        assert main(arguments) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["LICENSE", "README.md", "config.json", "model.safetensors"]
