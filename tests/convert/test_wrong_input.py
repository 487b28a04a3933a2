"""Every wrong input is one line that names the file, the tensor or the option; nothing is written."""

import functools

import pytest
import timm
import torch
from safetensors.torch import save_file

from burn_timm.cli import main
from burn_timm.convert import command
from burn_timm.convert.source import source_of

from . import originals
from .originals import linear, under


@pytest.fixture
def refused(tmp_path, fails, monkeypatch):
    """Convert a file of these bytes, or what torch reads from one, by the command line; the one line on stderr, after
    the file's name."""
    def run(content, *options):
        path = tmp_path / "checkpoint.pth"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            monkeypatch.setattr(command, "read_source", lambda path: source_of(path, content))
        line = fails("convert", path, tmp_path / "out", *options)
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
        return line.removeprefix(f"{path}: ")

    return run


def a(**kwargs):
    return originals.reactnet_a(8, **kwargs) | linear(256, 10, "fc")


def without(weights, start):
    return {name: tensor for name, tensor in weights.items() if not name.startswith(start)}


@functools.cache
def network(name):
    return timm.create_model(name, num_classes=0).state_dict()


def resnet(name="resnet18", **changes):
    return network(name) | {key.replace("__", "."): tensor for key, tensor in changes.items()}


def nan():
    weights = a(flat=True)
    weights["feature.2.bn1.running_var"][0] = float("nan")
    return {"state_dict": weights}


def short_kernel():
    weights = a(flat=True)
    return weights | {"feature.5.binary_3x3.weights": weights["feature.5.binary_3x3.weights"][:-1]}


def wide():
    return {name: torch.cat([tensor] * 2) if tensor.ndim else tensor for name, tensor in resnet().items()}


# Other binary networks: the names that tell them apart, as their published code makes them.
def beside_each_convolution(*names):
    weights = resnet()
    for key in list(weights):
        if key.startswith("layer") and ".conv" in key:
            weights |= {key.replace("weight", name): torch.ones(2) for name in names}
    return {"state_dict": under("module.", weights | linear(512, 1000, "fc"))}


def ir_net():
    return resnet() | linear(512, 1000, "fc") | {f"bn2.{name}": torch.ones(512) for name in ("weight", "bias")}


def bi_real():
    weights = originals.reactnet_18((8, 16, 32, 64)) | linear(64, 10, "fc")
    return {name: tensor for name, tensor in weights.items() if ".move" not in name and ".prelu" not in name}


def bnext():
    names = ("Attention.binary_conv.weight", "Attention.move.bias", "FFN.binary_conv.weight", "FFN.move.bias")
    return {f"feature.{number}.{name}": torch.ones(4, 4, 1, 1) for number in (1, 2) for name in names}


S2BNN = under("module.encoder_q.", originals.reactnet_a(8, both=True))
TWO = under("encoder_q.", resnet()) | under("encoder_k.", resnet())
BACKBONE = under("backbone.", originals.reactnet_a(8))
CASES = [  # content, options, what the line must say
    (b"", "", "truncated or damaged"), (b"<html>not found</html>", "", "truncated or damaged"),
    (b"PK\x03\x04nothing", "", "truncated or damaged"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "", "Git LFS"),
    (torch.zeros(3), "", "holds no weights by name but Tensor"), ([1, 2], "", "holds no weights by name but list"),
    ({"epoch": 3, "arch": "resnet50"}, "", "holds no weights; its entries are epoch, arch"),
    ({"optimizer": {"state": {0: torch.zeros(3)}}}, "", "holds no weights; its entries are optimizer"),
    (nan, "", "state_dict.feature.2.bn1.running_var holds NaN"),
    (lambda: {"state_dict": resnet() | under("module.", resnet())}, "", "state_dict.module.conv1.weight are the same"),
    # the layout
    (lambda: resnet("test_efficientnet"), "", "its keys (conv_stem.weight, ...) fit no known layout; give one by"),
    (lambda: under("encoder_q.", resnet()) | under("trunk._feature_blocks.", resnet()), "", "fit moco and vissl"),
    (a, "--from moco", "--from moco, but its keys are those of reactnet"),
    (resnet, "--from burn", "--from burn, but its network is not binary"),
    (S2BNN, "--from reactnet --stage w1a1", "--from reactnet, but its keys are those of s2bnn"),
    (TWO, "--from dino", "--from dino, but its keys are those of moco"),
    (lambda: a(flat=True) | {"feature.3.gate.weight": torch.ones(2)}, "", "feature.3.gate.weight [2] has no place"),
    (lambda: TWO | {"adapter.weight": torch.ones(2)}, "", "adapter.weight [2] has no place in the layout moco"),
    (lambda: resnet(layer4__1__se__weight=torch.ones(2)), "", "layer4.1.se.weight"),
    # binary networks that are not ours
    (ir_net, "", "bn2.weight [512] has no place"), (bi_real, "--stage w1a1", "layer1.0.move0.bias is missing"),
    (bnext, "", "fit no known layout"),
    (lambda: beside_each_convolution("alpha", "rotate", "R1", "R2"), "", "layer1.0.conv1.alpha [2] has"),  # RBNN
    (lambda: beside_each_convolution("alpha", "tau"), "--from encoder", "layer1.0.conv1.alpha [2] has"),  # ReCU
    (lambda: beside_each_convolution("binary_a.alpha_a"), "", "layer1.0.conv1.binary_a.alpha_a [2] has"),  # AdaBin
    (lambda: timm.create_model("test_reactnet").state_dict(), "", "of this package, so it loads as it is"),
    # tensors
    *((lambda name=name: without(a(flat=True), name), "--from reactnet", f"{name} is missing") for name in (
        "feature.0.conv1.weight", "feature.4.bn2_1.running_mean", "feature.13.move23.bias", "fc.bias")),
    (lambda: without(a(flat=True), "feature.9."), "", "feature.9.move11.bias is missing"),
    (lambda: without(originals.reactnet_18((8, 16, 32, 64)) | linear(64, 10, "fc"), "layer2.2."), "--stage w1a1",
     "layer2.2.move0.bias is missing"),
    (short_kernel, "", "feature.5.binary_3x3.weight is ["),
    (lambda: under("encoder_q.", wide()), "", "encoder_q.conv1.weight is [128, 3, 7, 7], but resnet18, the nearest"),
    (lambda: TWO | {"encoder_q.conv1.weight": torch.zeros(64, 3, 3, 3)}, "", "conv1.weight is [64, 3, 3, 3], but resn"),
    # options
    (S2BNN, "", "nothing in the file tells its stage; pass --stage w1a1"),
    (a, "", "nothing in the file tells its stage; pass --stage w1a1"),  # binary weights of four dimensions
    (resnet, "--stage w1a1", "--stage is for binary networks, and its network is none"),
    (resnet, "--keep-hidden", "--keep-hidden is for the hidden layer of BURN's student"),
    (TWO, "--part teacher", "--part teacher: this moco file has encoder_q, encoder_k"),
    (lambda: a(flat=True), "--part teacher", "--part teacher: this reactnet file has network"),
    (BACKBONE, "--part teacher", "--part teacher: this burn file has backbone"),
    (BACKBONE, "--part x", "--part x: this burn file has backbone"),
    (BACKBONE, "--keep-hidden --stage w1a1", "--keep-hidden, but there is no hidden layer backbone.fc.0 in the file"),
    (lambda: a(flat=True), "--keep-hidden", "--keep-hidden is for the hidden layer of BURN's student"),
]


@pytest.mark.parametrize("content, options, message", CASES, ids=[f"{n}-{case[2]}" for n, case in enumerate(CASES)])
def test_wrong_input_is_one_line(refused, content, options, message):
    line = refused(content() if callable(content) else content, *options.split())
    assert message in line and "take what is unknown out" not in line


def test_a_licence_that_is_no_identifier(refused):
    assert refused(a(flat=True), "--license", "my own").startswith("--license my own: must be an identifier of the Hub")


def test_a_folder_with_other_files_is_left_alone_and_an_earlier_conversion_replaced(tmp_path, fails):
    arguments = ["convert", str(tmp_path / "x.safetensors"), str(tmp_path / "out")]
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_file(a(flat=True), tmp_path / "x.safetensors")
        assert main(arguments) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["LICENSE", "README.md", "config.json", "model.safetensors"]
    (tmp_path / "out" / "thesis.tex").touch()
    assert "it also holds thesis.tex" in fails(*arguments)
    assert "a folder" in fails(*arguments[:2], tmp_path / "x.safetensors")
    assert (tmp_path / "out" / "thesis.tex").exists()
