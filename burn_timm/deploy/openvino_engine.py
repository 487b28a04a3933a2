"""The engine OpenVINO, on x86: networks are built node by node, as no front end of it knows BinaryConvolution-1."""

import functools
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from ..errors import BurnError, one_line
from ..kernels.burn import OneAtATime
from .fold import FoldedNetwork, Step, half_precision

# Upstream calls BinaryConvolution-1 old. Each convolution was exact in 2026.0 and in 2026.4, the ends of this range.
TESTED = ((2026, 0), (2027, 0))

_CHANNELS = 8  # the CPU plugin packs 8 channels into a byte; with other counts it fails or computes something else


def core() -> ov.Core:
    """The process's one Core.

    Each Core gives its thread another stack for signals. Two that do not end in the reverse of their order leave that
    stack unmapped (OpenVINO 2026.4), and the next signal, such as the end of a loader's worker, kills the process.

    Raises:
        BurnError: OpenVINO is outside the tested range.
    """
    version = re.match(r"(\d+)\.(\d+)", ov.__version__)
    if version is None or not TESTED[0] <= tuple(map(int, version.groups())) < TESTED[1]:
        low, high = (".".join(map(str, end)) for end in TESTED)
        raise BurnError(
            f"OpenVINO {ov.__version__} is not tested: 1-bit networks need >={low},<{high}: "
            'pip install "burn-timm[openvino]"'
        )
    return _core()


@functools.cache
def _core() -> ov.Core:
    return ov.Core()


def cpu_settings(threads: int | None, precision: str = "f32") -> dict[str, Any]:
    """Properties for compile_model: one image after the other, on at most `threads` threads (None: OpenVINO's choice).

    Without the hint OpenVINO computes in bfloat16 where the CPU can. Pinning would bind two models to the same core.
    """
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    return settings


def open_network(
    folder: Path, shape: tuple[int, int, int, int], threads: int | None,
) -> tuple[set[str], Callable[[np.ndarray, str], np.ndarray]]:
    """Names of the outputs of an exported folder, and a function that gives one of them, an array of its own.

    Args:
        shape: Of the images, `[B, C, H, W]`; the file has it, too.
        threads: At most; None: OpenVINO's choice.

    Raises:
        BurnError: OpenVINO is outside the tested range, or has no 1-bit kernels for this CPU.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        raise BurnError(
            f"{platform.machine()}: OpenVINO has 1-bit kernels for x86 only; here it goes bit by bit: "
            "export it with --format c"
        )
    file = folder / "model.xml"
    try:
        compiled = core().compile_model(file, "CPU", cpu_settings(threads))
    except BurnError:
        raise
    except Exception as error:  # OpenVINO raises RuntimeError and its own types
        raise BurnError(f"{file}: OpenVINO cannot run it here; it needs AVX2 ({one_line(error)})") from error
    request, alone = compiled.create_infer_request(), OneAtATime()

    def run(images: np.ndarray, output: str) -> np.ndarray:
        with alone:
            request.infer({0: images})
            result = np.array(request.get_tensor(output).data)  # the request owns its tensors
        result[np.isnan(images).any((1, 2, 3))] = np.nan  # OpenVINO's maximum loses it
        return result

    return {name for output in compiled.outputs for name in output.names}, run


def write(network: FoldedNetwork, folder: Path, shape: tuple[int, int, int, int]) -> None:
    """Write model.xml and model.bin for images of one `shape` `[B, C, H, W]`."""
    core()  # of a tested version
    graph, buffers = build(network, shape)
    ov.save_model(graph, folder / "model.xml", compress_to_fp16=False)  # thresholds must stay as they are
    del graph, buffers


def build(network: FoldedNetwork, shape: tuple[int, int, int, int]) -> tuple[ov.Model, list[np.ndarray]]:
    """An OpenVINO model for images of one `shape` `[B, C, H, W]`, float32.

    Its outputs are `feature_map` `[B, D, H', W']`, `features` `[B, D]` unless the network has no pooling, and `logits`
    `[B, K]` if it has a classifier.

    Returns:
        The model, and the buffers of its 1-bit weights, which must live as long as the model does.
    """
    buffers: list[np.ndarray] = []
    image = ops.parameter(list(shape), np.float32, name="images")
    size = network.stem_weight.shape[-1]
    x = ops.convolution(image, _constant(network.stem_weight), [2, 2], [size // 2] * 2, [size // 2] * 2, [1, 1])
    x = ops.add(x, _channels(network.stem_bias))
    if network.stem_pool:
        x = ops.max_pool(x, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)
    for step in network.steps:
        x = _step(x, step, buffers)
    x = ops.add(x, _channels(network.shift))
    outputs = {"feature_map": x}
    if network.pool_type:
        x = _pooled(x, network.pool_type)
        outputs["features"] = x
    if network.classifier is not None:
        weight, bias = network.classifier
        outputs["logits"] = ops.add(
            ops.matmul(x, ops.convert(_constant(half_precision(weight)), "f32"), False, True), _constant(bias[None])
        )
    results = []
    for name, node in outputs.items():
        result = ops.result(node)
        result.output(0).get_tensor().set_names({name})
        results.append(result)
    return ov.Model(results, [image], "burn_timm"), buffers


def binary_convolution(
    x: ov.Node | ov.Output, threshold: np.ndarray, positive: np.ndarray, stride: int, padding: int,
    buffers: list[np.ndarray],
) -> ov.Node:
    """Agreements less disagreements of `x >= threshold` with the signs `positive`, taps outside the image left out.

    Args:
        x: `[B, I, H, W]`, float32, of known shape.
        threshold: `[I]`.
        positive: bool `[O, I, k, k]`, True for a weight of +1.
        buffers: gets the array that holds the weights' bits.

    Returns:
        `[B, O, H', W']`, float32: what `conv2d` gives for signs (sign(0) = +1) and zero padding, exactly.

    Raises:
        BurnError: Another kernel than 1x1 or 3x3: OpenVINO 2026.4 refuses some 5x5 ones and gets others wrong.
    """
    outputs, inputs, size, _ = positive.shape
    if size not in (1, 3):
        raise BurnError(f"a binary {size}x{size} convolution of stride {stride} cannot be exported, only 1x1 and 3x3")
    # FakeQuantize asks x > limit. The float just below the threshold makes that x >= threshold.
    limit = np.nextafter(threshold, np.float32(-np.inf))
    extra = -inputs % _CHANNELS
    if extra:
        x = ops.pad(x, [0, 0, 0, 0], [0, extra, 0, 0], "constant", _constant(np.float32(0)))
        limit = np.concatenate([limit, np.ones(extra, np.float32)])  # 0 is below: their bit is 0,
        positive = np.concatenate([positive, np.zeros((outputs, extra, size, size), bool)], 1)  # and agrees, each time
    limits = _channels(limit)
    zero, one = _constant(np.zeros((1, 1, 1, 1), np.float32)), _constant(np.ones((1, 1, 1, 1), np.float32))
    bits = ops.fake_quantize(x, limits, limits, zero, one, 2)
    packed = np.packbits(positive.reshape(-1), bitorder="little")
    buffers.append(packed)
    weight = ov.op.Constant(ov.Tensor(packed, list(positive.shape), ov.Type.u1), True)
    steps, pads = [stride, stride], [padding, padding]
    count = ops.binary_convolution(bits, weight, steps, pads, pads, [1, 1], "xnor-popcount", 0.0)
    if extra:
        height, width = (_taps(int(side), size, stride, padding) for side in list(x.output(0).shape)[2:])
        count = ops.subtract(count, _constant(extra * np.outer(height, width).astype(np.float32)[None, None]))
    return count


def _taps(side: int, size: int, stride: int, padding: int) -> np.ndarray:
    """For each output position along one side: how many of the kernel's `size` taps lie inside the image."""
    starts = np.arange(0, side + 2 * padding - size + 1, stride) - padding
    return np.minimum(starts + size, side) - np.maximum(starts, 0)


def _step(x: ov.Node | ov.Output, step: Step, buffers: list[np.ndarray]) -> ov.Node:
    shortcut = x
    if step.pool:
        window = [min(2, int(side)) for side in list(x.output(0).shape)[2:]]  # on one pixel 2 fails, and 1 is the same
        shortcut = ops.avg_pool(x, window, [0, 0], [0, 0], window, True, "ceil")
    if step.repeat:
        shortcut = ops.concat([shortcut, shortcut], 1)
    if step.project is not None:
        shortcut = ops.convolution(shortcut, _constant(step.project[:, :, None, None]), [1, 1], [0, 0], [0, 0], [1, 1])
    y = binary_convolution(x, step.threshold, step.positive, step.stride, step.padding, buffers)
    y = ops.add(ops.multiply(y, _channels(step.scale)), _channels(step.bias))
    return ops.prelu(ops.add(y, shortcut), _constant(step.slope))


def _pooled(x: ov.Node, pool_type: str) -> ov.Node:
    sides = _constant(np.array([2, 3], np.int64))
    if pool_type == "avg":
        return ops.reduce_mean(x, sides)
    if pool_type == "max":
        return ops.reduce_max(x, sides)
    mean, largest = ops.reduce_mean(x, sides), ops.reduce_max(x, sides)
    if pool_type == "avgmax":
        return ops.multiply(ops.add(mean, largest), _constant(np.float32(0.5)))
    return ops.concat([mean, largest], 1)


def _channels(values: np.ndarray) -> ov.Node:
    return _constant(values.reshape(1, -1, 1, 1))


def _constant(array: np.ndarray) -> ov.Node:
    return ops.constant(array)
