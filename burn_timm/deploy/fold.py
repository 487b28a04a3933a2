"""A 1-bit ReActNet as the few arrays that an engine needs: everything per channel is folded into its neighbours.

Each binary convolution with what surrounds it (RSign, BatchNorm, scale, shortcut, RPReLU) becomes one `Step`:

    bits   = x >= threshold
    count  = sum over the taps inside the image of +1 where bit and weight agree, -1 where they do not
    output = prelu(scale * count + bias + shortcut(x), slope)

Outputs lack the last shift of RPReLU: it is a constant per channel, so it moves into the next threshold and bias
(average pooling leaves it as it is). numpy only; nothing here knows an engine.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..errors import BurnError
from ..models import ReActNet
from ..models.reactnet import ConvBN, PairBlock
from ..nn import BinaryConv2d, RPReLU, RSign
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
class Network:
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


def fold(model: nn.Module) -> Network:
    """Fold a ReActNet with 1-bit weights and activations; BatchNorm uses its running statistics.

    Raises:
        BurnError: another network, other bits, a part this does not know, or weights that are not finite.
    """
    check_one_bit(model)
    stem_weight, stem_bias = fold_conv_bn(model.stem)
    steps = []
    shift = np.zeros(len(stem_bias))
    for block in (block for stage in model.stages for block in stage):
        if isinstance(block, PairBlock):
            parts = [
                (block.sign1, block.conv1, block.bn1, block.act1), (block.sign2, block.conv2, block.bn2, block.act2),
            ]
        else:
            parts = [(block.sign, block.conv, block.bn, block.act)]
        for sign, conv, norm, act in parts:
            down = getattr(block, "downsample", None)
            step, shift = _step(shift, sign, conv, norm, act, down if isinstance(down, ConvBN) else None)
            steps.append(step)
    classifier = None
    if model.num_classes:
        fc = model.get_classifier()
        classifier = _single(_array(fc.weight)), _single(_array(fc.bias))
    network = Network(
        _single(stem_weight), _single(stem_bias), not isinstance(model.stem.pool, nn.Identity), steps, _single(shift),
        model.head.global_pool.pool_type.removeprefix("fast"), classifier,
    )
    _check_finite(network)
    return network


def check_one_bit(model: nn.Module) -> None:
    """Raise BurnError, in one line, unless `model` is a ReActNet with 1-bit weights and 1-bit activations."""
    if not isinstance(model, ReActNet):
        raise BurnError(f"{type(model).__name__} has no binary convolutions to run in 1 bit: expected a ReActNet")
    if (model.weight_bits, model.act_bits) != (1, 1):
        raise BurnError(
            f"the network has weight_bits={model.weight_bits}, act_bits={model.act_bits}; only 1/1 runs in 1 bit: "
            "train its second stage, or export it to ONNX"
        )
    if getattr(model.head, "hidden_size", None):
        raise BurnError("the network's head has a hidden layer, which has no 1-bit form yet: export it to ONNX")


def fold_conv_bn(module: ConvBN) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias, float64, of the convolution that does what `module` (without its pooling) does."""
    gain, offset = _affine(module.bn)
    return _array(module.conv.weight) * gain[:, None, None, None], offset


def _step(
    shift: np.ndarray, sign: RSign, conv: BinaryConv2d, norm: nn.BatchNorm2d, act: RPReLU, down: ConvBN | None,
) -> tuple[Step, np.ndarray]:
    """The step, and the shift that its output lacks; `shift` is the one that its input lacks."""
    gain, offset = _affine(norm)
    stride, outputs = conv.stride[0], conv.out_channels
    project, lost = None, shift
    if down is not None:
        project, lost = fold_conv_bn(down)
        project = project[:, :, 0, 0]
        lost = lost + project @ shift
    repeat = down is None and outputs == 2 * conv.in_channels
    if repeat:
        lost = np.concatenate([shift, shift])
    step = Step(
        threshold=_single(-(_array(sign.bias) + shift)),
        positive=(conv.weight.detach() >= 0).cpu().numpy(),
        stride=stride,
        padding=conv.padding[0],
        scale=_single(gain * _array(weight_scale(conv.weight.detach()))),
        bias=_single(offset + lost + _array(act.shift1.bias)),
        slope=_single(_array(act.prelu.weight)),
        pool=stride == 2,
        repeat=repeat,
        project=None if project is None else _single(project),
    )
    return step, _array(act.shift2.bias)


def _affine(norm: nn.BatchNorm2d) -> tuple[np.ndarray, np.ndarray]:
    gain = _array(norm.weight) / np.sqrt(_array(norm.running_var) + norm.eps)
    return gain, _array(norm.bias) - gain * _array(norm.running_mean)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()


def _single(array: np.ndarray) -> np.ndarray:
    # Contiguous, and + 0 turns a threshold of -0 into 0.
    return np.ascontiguousarray(array, dtype=np.float32) + np.float32(0)


def _check_finite(network: Network) -> None:
    arrays = [("stem", network.stem_weight), ("stem", network.stem_bias), ("last shift", network.shift)]
    arrays += [("classifier", array) for array in network.classifier or ()]
    for number, step in enumerate(network.steps):
        for name in ("threshold", "scale", "bias", "slope", "project"):
            if getattr(step, name) is not None:
                arrays.append((f"{name} of binary convolution {number}", getattr(step, name)))
    for name, array in arrays:
        if not np.isfinite(array).all():
            raise BurnError(f"{name}: NaN or infinite weights cannot be exported; did the training diverge?")
