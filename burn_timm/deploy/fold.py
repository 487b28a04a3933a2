"""A 1-bit network as the few arrays that an engine needs.

Each binary convolution with what surrounds it (RSign, BatchNorm, scale, shortcut, RPReLU) becomes one `Step`:

    bits   = x >= threshold
    count  = sum over the taps inside the image of +1 where bit and weight agree, -1 where they do not
    output = prelu(scale * count + bias + shortcut(x), slope)

Outputs lack the last shift of RPReLU: it is a constant per channel, so it moves into the next threshold and bias
(average pooling leaves it as it is). Nothing here knows an engine.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..errors import BurnError
from ..models import BinaryUnit, is_binary
from ..packing import weight_scale


@dataclass
class Step:
    """One binary convolution and what surrounds it; arrays are float32 where nothing else is said.

    threshold `[I]`; positive `[O, I, kH, kW]`, bool, the sign of the weight; stride; padding; scale, bias and slope
    `[O]`. The shortcut is averaged over 2x2 where `pool` is set (odd sizes round up, an incomplete window averages what
    it has), then repeated to twice its channels (`repeat`) or multiplied by `project` `[O, I]`.
    """

    threshold: np.ndarray
    positive: np.ndarray
    stride: int
    padding: int
    scale: np.ndarray
    bias: np.ndarray
    slope: np.ndarray
    pool: bool
    repeat: bool
    project: np.ndarray | None


@dataclass
class FoldedNetwork:
    """Stem, steps and head of a network; float32.

    The stem is a convolution (`stem_weight` `[O, C, k, k]`, `stem_bias` `[O]`, stride 2, padding k // 2), with a 3x3/2
    max-pool (padding 1) behind it where `stem_pool` is set. `shift` `[D]` is added to the last step's output: the
    feature map. `pool_type` is timm's (avg, max, avgmax, catavgmax; empty: none); the classifier `[K, D]`, `[K]` is
    None in a headless network.
    """

    stem_weight: np.ndarray
    stem_bias: np.ndarray
    stem_pool: bool
    steps: list[Step]
    shift: np.ndarray
    pool_type: str
    classifier: tuple[np.ndarray, np.ndarray] | None


@torch.no_grad()
def fold(model: nn.Module) -> FoldedNetwork:
    """Fold a binary network with 1-bit weights and activations; BatchNorm uses its running statistics.

    Raises:
        BurnError: Another network, other bits, a head with a hidden layer, or weights that are not finite.
    """
    if not is_binary(model):
        raise BurnError(f"{type(model).__name__} has no binary convolutions to run in 1 bit: expected a ReActNet")
    if (model.weight_bits, model.act_bits) != (1, 1):
        raise BurnError(
            f"the network has weight_bits={model.weight_bits}, act_bits={model.act_bits}; only 1/1 runs in 1 bit: "
            "train its second stage, or export it to ONNX"
        )
    if getattr(model.head, "hidden_size", None):
        raise BurnError("the network's head has a hidden layer, which has no 1-bit form yet: export it to ONNX")
    conv = model.stem.conv
    half = conv.kernel_size[0] // 2
    plain = ((2 * half + 1,) * 2, (2, 2), (half, half), (1, 1), 1, "zeros")
    if (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode) != plain:
        raise BurnError("the stem must be an ordinary square convolution of stride 2 that pads half of its kernel with "
                        f"zeros, not {conv}")
    stem_weight, stem_bias = fused(conv.weight, model.stem.bn, conv.bias)
    steps, shift = [], torch.zeros_like(stem_bias)
    for unit in model.binary_units():
        step, shift = _step(unit, shift)
        steps.append(step)
    fc, pool_type = model.head.fc, model.head.global_pool.pool_type
    network = FoldedNetwork(
        _array(stem_weight), _array(stem_bias), not isinstance(model.stem.pool, nn.Identity), steps, _array(shift),
        {"fast": "avg"}.get(pool_type, pool_type.removeprefix("fast")),
        (_array(fc.weight), _array(fc.bias)) if model.num_classes else None,
    )
    _check_finite(network)
    return network


def fused(
    weight: torch.Tensor, norm: nn.BatchNorm2d, bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight `[O, I, ...]` and bias `[O]`, float64, of the convolution that does what these and then `norm` do."""
    statistics = norm.running_mean.double(), norm.running_var.double()
    fused = fuse_conv_bn_weights(
        weight.double(), None if bias is None else bias.double(), *statistics, norm.eps, norm.weight.double(),
        norm.bias.double(),
    )
    return fused[0].detach(), fused[1].detach()


def _step(unit: BinaryUnit, shift: torch.Tensor) -> tuple[Step, torch.Tensor]:
    """The step, and the shift that its output lacks; `shift` is the one that its input lacks."""
    conv = unit.conv
    scale, bias = fused(weight_scale(conv.weight)[:, None], unit.norm)
    repeat = unit.projection is None and conv.out_channels == 2 * conv.in_channels
    project, lost = None, torch.cat([shift, shift]) if repeat else shift
    if unit.projection is not None:
        project, lost = fused(unit.projection.conv.weight, unit.projection.bn, unit.projection.conv.bias)
        project = project[:, :, 0, 0]
        lost = lost + project @ shift
    step = Step(
        threshold=_array(-(unit.sign.bias.double() + shift)),
        positive=(conv.weight >= 0).cpu().numpy(),
        stride=conv.stride[0],
        padding=conv.padding[0],
        scale=_array(scale[:, 0]),
        bias=_array(bias + lost + unit.act.shift1.bias.double()),
        slope=_array(unit.act.prelu.weight),
        pool=conv.stride[0] == 2,
        repeat=repeat,
        project=None if project is None else _array(project),
    )
    return step, unit.act.shift2.bias.double()


def _array(tensor: torch.Tensor) -> np.ndarray:
    """float32 and contiguous; + 0 turns a threshold of -0 into 0."""
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy()) + np.float32(0)


def _check_finite(network: FoldedNetwork) -> None:
    arrays = [("stem", network.stem_weight), ("stem", network.stem_bias), ("last shift", network.shift)]
    arrays += [("classifier", array) for array in network.classifier or ()]
    for number, step in enumerate(network.steps):
        names = ("threshold", "scale", "bias", "slope", "project")
        arrays += [(f"{name} of binary convolution {number}", getattr(step, name)) for name in names]
    for name, array in arrays:
        if array is not None and not np.isfinite(array).all():
            raise BurnError(f"{name}: NaN or infinite weights cannot be exported; did the training diverge?")


def half_precision(weight: np.ndarray) -> np.ndarray:
    """A classifier's weight `[K, D]` in float16, half the file, if none changes by over 2^-11 of its row's largest."""
    with np.errstate(over="ignore"):
        half = weight.astype(np.float16)
    near = np.abs(half - weight) <= 2.0**-11 * np.abs(weight).max(1, keepdims=True)
    return half if near.all() else weight
