"""Cutting a timm backbone in two for a C4 detector: the trunk that sees the image, the head that sees each region."""

import torch
from torch import nn

from ...errors import BurnError
from ..features import eval_mode


def split_c4(model: nn.Module, name: str) -> tuple[nn.Sequential, nn.Sequential, int, int]:
    """The model's modules in two: up to half of its final resolution (stride 16 of 32), and the rest without pooling.

    The cut stands behind the last of the model's `feature_info` with half of the final reduction. For ReActNet-A that
    gives trunk channels 512 at stride 16, and the two blocks of the last stage as head; for a ResNet, layer4. That
    head(trunk(x)) is what the model's own `forward_features` gives is tried on one image, since a model may do more
    than call its children in order. The modules are shared with `model`.

    Returns:
        trunk, head, channels of the trunk's output, channels of the head's output.

    Raises:
        BurnError: the model cannot be cut so; --neck fpn asks less of it.
    """
    refusal = BurnError(f"--model {name}: its last stage cannot be cut off as a C4 head; use --neck fpn")
    info = [dict(entry) for entry in getattr(model, "feature_info", None) or []]
    if not info or not hasattr(model, "forward_features"):
        raise refusal
    half = [entry for entry in info if entry["reduction"] * 2 == info[-1]["reduction"]]
    if not half:
        raise refusal
    children = dict(model.named_children())
    first, _, inner = half[-1]["module"].partition(".")
    if first not in children or (inner and not (inner.isdigit() and isinstance(children[first], nn.Sequential))):
        raise refusal
    before = list(children).index(first)
    names = list(children)
    cut, rest = children[first], []
    if inner:
        cut, rest = children[first][: int(inner) + 1], [*children[first][int(inner) + 1 :]]
    trunk = nn.Sequential(*(children[name] for name in names[:before]), cut)
    parameter = next(model.parameters())
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(parameter)
    with eval_mode(model), torch.no_grad():
        try:
            features, expected = trunk(image), model.forward_features(image)
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            raise refusal from error
        for stop in range(before + 1, len(names) + 1):  # the classifier and pooling stay out: shortest first
            modules = [*rest, *(children[name] for name in names[before + 1 : stop])]
            head = nn.Sequential(*modules)
            if any(True for _ in head.parameters()) and _same(head, features, expected):
                break
        else:
            raise refusal
    if features.shape[1] != half[-1]["num_chs"]:  # not channels-first
        raise refusal
    return trunk, head, features.shape[1], expected.shape[1]


def _same(head: nn.Module, features: torch.Tensor, expected: torch.Tensor) -> bool:
    try:
        output = head(features)
    except (RuntimeError, TypeError, ValueError, AssertionError):
        return False
    return output.ndim == 4 and output.shape == expected.shape and torch.allclose(output, expected)
