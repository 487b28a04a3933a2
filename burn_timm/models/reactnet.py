"""ReActNet: binary networks with learned thresholds, in 1-bit, half-binary and real-valued form.

Papers: `ReActNet: Towards Precise Binary Neural Network with Generalized Activation Functions` -
    https://arxiv.org/abs/2003.03488 (ECCV 2020); `Unsupervised Representation Learning for Binary Networks by Joint
    Classifier Learning` (BURN) - https://arxiv.org/abs/2110.08851 (CVPR 2022), whose backbone is ReActNet-A.

`reactnet_a` is the MobileNet-like ReActNet-A, `reactnet_18` the ResNet-18-like one (four one-convolution blocks a
stage). `weight_bits` and `act_bits` choose the stage: 1/1 fully binary (stage 2), 32/1 binary activations only (stage
1), 32/32 the real-valued twin (sign is the identity, no scale). Parameter names are the same in all three.

Written from the papers' descriptions; Apache-2.0.
"""

import importlib.resources
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import ClassifierHead, NormMlpClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from ..compat import feature_take_indices, require_stages
from ..nn import BinaryConv2d, RPReLU, RSign, Shift
from ..nn.checkpointing import checkpointed_blocks
from .packed_loading import checkpoint_filter_fn, load_features_hook, load_hook, mark_loaded, require_all_loaded
from .protocol import BinaryUnit

__all__ = ["ReActNet"]

HUB_ORGANISATION = "burn-timm"  # of the repositories that hold the released weights, each named by its tag


def _half_size(x: torch.Tensor) -> torch.Tensor:
    # Odd sizes round up, as a strided 3x3 convolution does; an incomplete window averages the pixels it has.
    return F.avg_pool2d(x, 2, stride=2, ceil_mode=True, count_include_pad=False)


class ConvBN(nn.Module):
    """A real-valued convolution and its BatchNorm; `pool` adds the 3x3/2 max-pool of a ResNet stem."""

    def __init__(self, in_chs: int, out_chs: int, kernel_size: int, stride: int, pool: bool = False, **dd):
        super().__init__()
        self.conv = nn.Conv2d(in_chs, out_chs, kernel_size, stride, padding=kernel_size // 2, bias=False, **dd)
        self.bn = nn.BatchNorm2d(out_chs, **dd)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if pool else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.bn(self.conv(x)))


class PairBlock(nn.Module):
    """ReActNet-A's block: a binary 3x3, then a binary 1x1, each with its own shortcut.

    Where the width doubles, the 1x1 gives twice the channels and its shortcut is repeated. (The paper draws two 1x1
    branches that share sign and shortcut; one convolution with their outputs side by side is the same function.)
    """

    def __init__(self, in_chs: int, out_chs: int, stride: int, weight_bits: int, act_bits: int, act_grad: str, **dd):
        super().__init__()
        if out_chs not in (in_chs, 2 * in_chs):
            raise ValueError(f"a ReActNet-A block keeps its width or doubles it; {in_chs} -> {out_chs} does neither")
        self.stride = stride
        self.widens = out_chs == 2 * in_chs
        self.sign1 = RSign(in_chs, act_bits, act_grad, **dd)
        self.conv1 = BinaryConv2d(in_chs, in_chs, 3, stride, 1, weight_bits, **dd)
        self.bn1 = nn.BatchNorm2d(in_chs, **dd)
        self.act1 = RPReLU(in_chs, **dd)
        self.sign2 = RSign(in_chs, act_bits, act_grad, **dd)
        self.conv2 = BinaryConv2d(in_chs, out_chs, 1, 1, 0, weight_bits, **dd)
        self.bn2 = nn.BatchNorm2d(out_chs, **dd)
        self.act2 = RPReLU(out_chs, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = _half_size(x) if self.stride == 2 else x
        x = self.act1(self.bn1(self.conv1(self.sign1(x))) + shortcut)
        shortcut = torch.cat([x, x], dim=1) if self.widens else x
        return self.act2(self.bn2(self.conv2(self.sign2(x))) + shortcut)

    def binary_units(self) -> list[BinaryUnit]:
        first = BinaryUnit(self.sign1, self.conv1, self.bn1, self.act1)
        return [first, BinaryUnit(self.sign2, self.conv2, self.bn2, self.act2)]


class SingleBlock(nn.Module):
    """ReActNet-18's block: one binary 3x3 with a shortcut, which is pooled and projected (real-valued) when strided."""

    def __init__(self, in_chs: int, out_chs: int, stride: int, weight_bits: int, act_bits: int, act_grad: str, **dd):
        super().__init__()
        self.stride = stride
        self.sign = RSign(in_chs, act_bits, act_grad, **dd)
        self.conv = BinaryConv2d(in_chs, out_chs, 3, stride, 1, weight_bits, **dd)
        self.bn = nn.BatchNorm2d(out_chs, **dd)
        self.act = RPReLU(out_chs, **dd)
        self.downsample = ConvBN(in_chs, out_chs, 1, 1, **dd) if in_chs != out_chs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.downsample(_half_size(x) if self.stride == 2 else x)
        return self.act(self.bn(self.conv(self.sign(x))) + shortcut)

    def binary_units(self) -> list[BinaryUnit]:
        projection = self.downsample if isinstance(self.downsample, ConvBN) else None
        return [BinaryUnit(self.sign, self.conv, self.bn, self.act, projection)]


class ReActNet(nn.Module):
    """ReActNet in both families.

    Args:
        block: `pair` (ReActNet-A) or `single` (ReActNet-18).
        stem_chs: Channels of the real-valued stem.
        channels, depths: Channels and number of blocks of each stage; every stage but the first halves the resolution.
        weight_bits, act_bits: 1 or 32 each.
        act_grad: Gradient of the activations' sign, `approx` (2 - 2|x|) or `clip` (1), both on [-1, 1].
        head_hidden_size: Width of a Linear + ReLU between pooling and classifier, as BURN's linear evaluation has it;
            None: no such layer. It belongs to the features: `num_classes=0` and `pre_logits` end behind it.
    """

    def __init__(
        self, num_classes: int = 1000, in_chans: int = 3, global_pool: str = "avg", output_stride: int = 32,
        block: str = "pair", stem_chs: int = 32, channels: tuple[int, ...] = (64, 128, 256, 512, 1024),
        depths: tuple[int, ...] = (1, 2, 2, 6, 2), weight_bits: int = 1, act_bits: int = 1, act_grad: str = "approx",
        drop_rate: float = 0.0, head_hidden_size: int | None = None, device=None, dtype=None,
    ):
        super().__init__()
        if output_stride != 32:
            raise ValueError(f"ReActNet has output_stride 32 only, not {output_stride}: its shortcuts do not dilate")
        if block not in ("pair", "single"):
            raise ValueError(f"block must be 'pair' or 'single', not {block!r}")
        if act_bits == 32 and weight_bits == 1:
            raise ValueError("weight_bits=1 needs act_bits=1: stages are 32/32, 32/1 and 1/1 (weights/activations)")
        dd = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.weight_bits, self.act_bits = weight_bits, act_bits
        self.grad_checkpointing = False
        self.feature_info = []

        block_cls, stem_size, reduction = (PairBlock, 3, 2) if block == "pair" else (SingleBlock, 7, 4)
        self.stem = ConvBN(in_chans, stem_chs, stem_size, 2, pool=block == "single", **dd)
        stages, width = [], stem_chs
        for index, (out_chs, depth) in enumerate(zip(channels, depths, strict=True)):
            blocks = []
            for number in range(depth):
                stride = 2 if number == 0 and index > 0 else 1
                blocks.append(block_cls(width, out_chs, stride, weight_bits, act_bits, act_grad, **dd))
                width = out_chs
            stages.append(nn.Sequential(*blocks))
            reduction *= 2 if index > 0 else 1
            self.feature_info.append({"num_chs": width, "reduction": reduction, "module": f"stages.{index}"})
        self.stages = nn.Sequential(*stages)

        self.num_features = width
        self.head = self._new_head(num_classes, global_pool, head_hidden_size or None)
        self.head_hidden_size = _head_width(self.head)
        self.register_load_state_dict_pre_hook(load_hook)
        self.register_load_state_dict_post_hook(mark_loaded)
        self.init_weights()

    @torch.jit.ignore
    def init_weights(self) -> None:
        """Reset every parameter and buffer. Latent weights start uniform and symmetric around zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, (nn.Conv2d, nn.BatchNorm2d, Shift)):
                module.reset_parameters()
            elif isinstance(module, nn.PReLU):
                nn.init.constant_(module.weight, 0.25)

    @torch.jit.ignore
    def init_non_persistent_buffers(self) -> None:
        """There are none; transformers calls this behind its own loading, where a check belongs."""
        require_all_loaded(self)

    def binary_units(self) -> Iterator[BinaryUnit]:
        """All binary convolutions with what surrounds them, in the order in which they run (see `protocol`)."""
        return (unit for stage in self.stages for block in stage.children() for unit in block.binary_units())

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def _new_head(self, num_classes: int, global_pool: str, hidden_size: int | None) -> nn.Module:
        like = self.stem.conv.weight
        dd = {"device": like.device, "dtype": like.dtype}
        if not hidden_size:
            return ClassifierHead(self.num_features, num_classes, global_pool, self.drop_rate, **dd)
        if global_pool == "catavgmax":
            raise ValueError("head_hidden_size needs a pooling that keeps the width, not catavgmax")
        return NormMlpClassifierHead(
            self.num_features, num_classes, hidden_size, global_pool, self.drop_rate, nn.Identity, "relu", **dd,
        )

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier on the model's device and in its dtype; `global_pool` None keeps the pooling.

        A hidden layer (`head_hidden_size`) keeps its weights.
        """
        if global_pool is None:
            global_pool = self.head.global_pool.pool_type
        self.num_classes = num_classes
        old, hidden = self.head, getattr(self.head, "hidden_size", None)
        self.head = self._new_head(num_classes, global_pool, hidden).train(self.training)
        if hidden:
            with torch.no_grad():  # a 1x1 convolution where nothing is pooled, else a linear layer
                for name, tensor in self.head.pre_logits.fc.named_parameters():
                    kept = old.pre_logits.fc.get_parameter(name)
                    if not tensor.is_meta:
                        tensor.copy_(kept.view_as(tensor))
                    tensor.requires_grad_(kept.requires_grad)
        self.head_hidden_size = _head_width(self.head)

    def forward_intermediates(
        self, x: torch.Tensor, indices: int | list[int] | None = None, norm: bool = False, stop_early: bool = False,
        output_fmt: str = "NCHW", intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Outputs `[B, C, H, W]` of the stages in `indices` (an int: the last n, None: all), and the final features.

        Args:
            norm: Without effect; ReActNet has no final normalisation.
            stop_early: Do not run the stages behind the last one that is asked for.
            output_fmt: Only `NCHW`.
            intermediates_only: Return the intermediates alone.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be NCHW, not {output_fmt}")
        intermediates = []
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        x = self.stem(x)
        stages = self.stages
        if not torch.jit.is_scripting() and stop_early:  # TorchScript can neither slice modules nor checkpoint
            stages = self.stages[: max_index + 1]
        for index, stage in enumerate(stages):
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpointed_blocks(stage, x)
            else:
                x = stage(x)
            if index in take_indices:
                intermediates.append(x)
        if intermediates_only:  # not one expression, as TorchScript wants one type in it
            return intermediates
        return x, intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True,
    ) -> list[int]:
        """Remove what the stages in `indices` do not need."""
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        pruned = max_index < len(self.stages) - 1
        self.stages = self.stages[: max_index + 1]
        self.num_features = self.feature_info[max_index]["num_chs"]
        if prune_head or pruned:
            self.head = self._new_head(0, "", None).train(self.training)  # a hidden layer is head, too
            self.reset_classifier(0, "")
        return take_indices

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images `[B, in_chans, H, W]` to feature maps `[B, num_features, H / 32, W / 32]`."""
        x = self.stem(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            for stage in self.stages:
                x = checkpointed_blocks(stage, x)
            return x
        return self.stages(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


def _head_width(head: nn.Module) -> int:
    """Width of what a head gives before its classifier."""
    return getattr(head, "hidden_size", None) or head.in_features * head.global_pool.feat_mult()


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "url": "", "num_classes": 1000, "input_size": (3, 224, 224), "pool_size": (7, 7),
        "crop_pct": 0.875, "interpolation": "bicubic", "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv", "classifier": "head.fc", "license": "apache-2.0",
        "paper_ids": "arXiv:2003.03488", "paper_name": "ReActNet: Towards Precise Binary Neural Network with "
        "Generalized Activation Functions",
        **kwargs,
    }


def _released(name: str, **kwargs: Any) -> dict[str, Any]:
    """Weights without classifier that ship in the package as `weights/NAME.safetensors`; NAME on the Hub too."""
    file = importlib.resources.files("burn_timm") / "weights" / f"{name}.safetensors"
    source = {"file": str(file)} if file.is_file() else {}  # timm takes `file` before `hf_hub_id`, and must find it
    return _cfg(
        license="other",  # the photos' terms: non-commercial research and education
        hf_hub_id=f"{HUB_ORGANISATION}/{name}", num_classes=0, paper_ids="arXiv:2110.08851",
        paper_name="Unsupervised Representation Learning for Binary Networks by Joint Classifier Learning",
        **source, **kwargs,
    )


default_cfgs = generate_default_cfgs({
    "reactnet_a.untrained": _cfg(),
    **{name: _released(name, input_size=(3, 64, 64), pool_size=(2, 2), crop_pct=1.0) for name in (
        "reactnet_a_burn.distill_lite0_tiny_mini_imagenet_64",  # the first is the default
        "reactnet_a_burn.distill_tiny_imagenet_80_64",
        "reactnet_a_025_burn.distill_lite0_tiny_mini_imagenet_64",
    )},
    "reactnet_a_050.untrained": _cfg(),
    "reactnet_a_025.untrained": _cfg(),
    "reactnet_18.untrained": _cfg(),
    "test_reactnet.untrained": _cfg(input_size=(3, 64, 64), pool_size=(4, 4)),
    "test_reactnet_mlp.untrained": _cfg(input_size=(3, 64, 64), pool_size=(4, 4)),
})


def _create_reactnet(variant: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    stages = len(kwargs.get("depths", (1, 2, 2, 6, 2)))
    require_stages(variant, stages, kwargs.get("out_indices", stages))
    feature_cfg = {"out_indices": tuple(range(stages)), "flatten_sequential": True}
    model = build_model_with_cfg(
        ReActNet, variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn, feature_cfg=feature_cfg, **kwargs,
    )
    if not isinstance(model, ReActNet):
        model.register_load_state_dict_pre_hook(load_features_hook)
    return model


def _scaled(scale: float) -> dict[str, Any]:
    return {"stem_chs": int(32 * scale), "channels": tuple(int(c * scale) for c in (64, 128, 256, 512, 1024))}


@register_model
def reactnet_a(pretrained: bool = False, **kwargs: Any) -> ReActNet:
    """ReActNet-A: 28.3 M parameters without classifier, 4.8e9 binary and 1.2e7 real multiply-accumulates at 224 px."""
    return _create_reactnet("reactnet_a", pretrained, **kwargs)


@register_model
def reactnet_a_burn(pretrained: bool = False, **kwargs: Any) -> ReActNet:
    """ReActNet-A with 1-bit weights and activations, the network that BURN pretrains."""
    return _create_reactnet("reactnet_a_burn", pretrained, **kwargs)


@register_model
def reactnet_a_050(pretrained: bool = False, **kwargs: Any) -> ReActNet:
    """ReActNet-A with half the channels."""
    return _create_reactnet("reactnet_a_050", pretrained, **dict(_scaled(0.5), **kwargs))


@register_model
def reactnet_a_025(pretrained: bool = False, **kwargs: Any) -> ReActNet:
    """ReActNet-A with a quarter of the channels."""
    return _create_reactnet("reactnet_a_025", pretrained, **dict(_scaled(0.25), **kwargs))


@register_model
def reactnet_a_025_burn(pretrained: bool = False, **kwargs: Any) -> ReActNet:
    """The same network under the name of its pretrained weights, which have no classifier and suit 64 px."""
    return _create_reactnet("reactnet_a_025_burn", pretrained, **dict(_scaled(0.25), **kwargs))


@register_model
def reactnet_18(pretrained: bool = False, **kwargs: Any) -> ReActNet:
    """ReActNet-18: ResNet-18's layout in sixteen blocks of one binary convolution."""
    args = {"block": "single", "stem_chs": 64, "channels": (64, 128, 256, 512), "depths": (4, 4, 4, 4)}
    return _create_reactnet("reactnet_18", pretrained, **dict(args, **kwargs))


_TINY = {"stem_chs": 8, "channels": (16, 32, 64, 128), "depths": (1, 1, 2, 1)}


@register_model
def test_reactnet(pretrained: bool = False, **kwargs: Any) -> ReActNet:
    """A tiny ReActNet-A for tests."""
    return _create_reactnet("test_reactnet", pretrained, **dict(_TINY, **kwargs))


@register_model
def test_reactnet_mlp(pretrained: bool = False, **kwargs: Any) -> ReActNet:
    """The same with a hidden layer in its head."""
    return _create_reactnet("test_reactnet_mlp", pretrained, **{**_TINY, "head_hidden_size": 48, **kwargs})
