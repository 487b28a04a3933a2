"""The engine of our own kernels (`burn_timm.kernels`, through numba): layouts, buffers, and the order of the calls."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np

from ..kernels.kernels import compiled
from ..kernels.layout import block_width, pixels_at_a_time, sums_without_mismatch
from ..kernels.threads import use_threads
from .fold import FoldedNetwork, Step, read_folded

_ONE_AT_A_TIME = threading.Lock()  # numba's thread pool is the process's, and not every one of its kinds may be shared


def open_network(
    folder: Path, shape: tuple[int, int, int, int], threads: int | None,
) -> tuple[set[str], Callable[[np.ndarray, str], np.ndarray]]:
    """Names of the outputs of an exported folder, and a function that gives one of them, an array of its own.

    Args:
        shape: Of the images, `[B, C, H, W]`.
        threads: At most; None: all cores.
    """
    network = PopcountNetwork(read_folded(folder / "network.safetensors"), shape, threads)
    return network.outputs, lambda images, output: network(images)[output]


@dataclass
class _Ready:
    """A step in the kernels' layout, for one shape: weights, tables and its output."""

    weights: np.ndarray
    most: np.ndarray
    row_class: np.ndarray
    column_class: np.ndarray
    chunk: int
    bits: np.ndarray
    out: np.ndarray


class PopcountNetwork:
    """Runs `network` on images `[N, C, H, W]` of one shape, on `threads` threads (None: all cores).

    Every buffer is made beforehand.
    """

    def __init__(self, network: FoldedNetwork, shape: tuple[int, int, int, int], threads: int | None = None):
        most = numba.config.NUMBA_NUM_THREADS
        self.network, self.threads = network, most if threads is None else min(threads, most)
        batch, channels, height, width = shape
        self._pad = network.stem_weight.shape[2] // 2
        self._images = np.zeros((batch, height + 2 * self._pad, width + 2 * self._pad, channels), np.float32)
        height, width = -(-height // 2), -(-width // 2)
        self._stem = _Floats(network.stem_weight, network.stem_bias, (batch, height, width))
        if network.stem_pool:
            height, width = -(-height // 2), -(-width // 2)
        self._ready, self._projects, self._halves = [], {}, {}
        for number, step in enumerate(network.steps):
            ready = _prepare(step, batch, height, width)
            if step.project is not None:
                places = ready.out.shape[:3]
                zeros = np.zeros(len(step.project), np.float32)
                self._projects[number] = _Floats(step.project[:, :, None, None], zeros, places)
                self._halves[number] = np.empty((*places, step.project.shape[1]), np.float32) if step.pool else None
            self._ready.append(ready)
            height, width = ready.out.shape[1:3]
        self._classifier = None
        if network.classifier is not None:
            weight, bias = network.classifier
            self._classifier = _Floats(weight[:, :, None, None], bias, (batch, 1, 1))

    @property
    def outputs(self) -> set[str]:
        pooled = {"features"} if self.network.pool_type else set()
        return {"feature_map"} | pooled | ({"logits"} if self._classifier else set())

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """float32 images `[N, C, H, W]` to feature_map `[N, D, h, w]`, features and logits: those in `outputs`."""
        with _ONE_AT_A_TIME:
            if self.threads > 1:
                use_threads(self.threads)
            return self._run(images)

    def _run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        pack, step_kernel, convolve, halve = compiled(self.threads > 1)
        network, pad = self.network, self._pad
        inside = self._images[:, pad:-pad, pad:-pad] if pad else self._images
        inside[:] = images.transpose(0, 2, 3, 1)
        x = self._stem.run(convolve, self._images, 2)
        x = _max_pool(x) if network.stem_pool else x
        pack(x, network.steps[0].threshold, self._ready[0].bits.view(np.uint16), network.steps[0].padding)
        for number, (step, ready) in enumerate(zip(network.steps, self._ready, strict=True)):
            shortcut, pool = x, step.pool
            if number in self._projects:
                if pool:
                    shortcut = self._halves[number]
                    halve(x, shortcut)
                shortcut, pool = self._projects[number].run(convolve, shortcut), False
            last = number + 1 == len(network.steps)
            limits = np.zeros_like(step.scale) if last else network.steps[number + 1].threshold
            padding = 0 if last else network.steps[number + 1].padding
            bits = np.empty((0, 0, 0, 0), np.uint16) if last else self._ready[number + 1].bits.view(np.uint16)
            step_kernel(
                ready.bits, ready.weights, step.stride, ready.most, ready.row_class, ready.column_class, step.scale,
                step.bias, step.slope, shortcut, pool, ready.chunk, ready.out, limits, bits, padding,
            )
            x = ready.out
        outputs = {"feature_map": np.ascontiguousarray((x + network.shift).transpose(0, 3, 1, 2))}
        if network.pool_type:
            outputs["features"] = _pooled(outputs["feature_map"], network.pool_type)
        if self._classifier is not None:
            features = np.ascontiguousarray(outputs["features"][:, None, None])
            outputs["logits"] = self._classifier.run(convolve, features)[:, 0, 0].copy()
        return outputs


class _Floats:
    """A floating-point convolution, weight `[O, C, k, k]`, whose output is `[*places, O]`."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, places: tuple[int, int, int]):
        outputs, _, size, _ = weight.shape
        self.weights = _blocks(weight.transpose(0, 2, 3, 1).reshape(outputs, size, -1), "floats")
        self.bias = bias
        self.out = np.empty((*places, outputs), np.float32)

    def run(self, convolve: Callable, x: np.ndarray, stride: int = 1) -> np.ndarray:
        convolve(x, self.weights, self.bias, stride, pixels_at_a_time(len(self.bias)), self.out)
        return self.out


def _blocks(weight: np.ndarray, kind: str) -> np.ndarray:
    """`[O, k, columns]` to the kernels' `[blocks, k, columns, lanes]`; what is missing in the last block is 0."""
    outputs, size, columns = weight.shape
    width = block_width(outputs, kind)
    padded = np.zeros((-(-outputs // width) * width, size, columns), weight.dtype)
    padded[:outputs] = weight
    return np.ascontiguousarray(padded.reshape(-1, width, size, columns).transpose(0, 2, 3, 1))


def _prepare(step: Step, batch: int, height: int, width: int) -> _Ready:
    outputs, inputs, size, _ = step.positive.shape
    words = -(-inputs // 64)
    taps = _words(step.positive.transpose(0, 2, 3, 1))  # [O, k, k, words]
    ones = step.positive.sum(1, dtype=np.int32)
    most, row_class, column_class = sums_without_mismatch(inputs, ones, height, width, step.stride, step.padding)
    return _Ready(
        _blocks(taps.reshape(outputs, size, size * words), "bits"), most, row_class, column_class,
        pixels_at_a_time(outputs),
        np.zeros((batch, height + 2 * step.padding, width + 2 * step.padding, words), np.uint64),
        np.empty((batch, len(row_class), len(column_class), outputs), np.float32),
    )


def _words(positive: np.ndarray) -> np.ndarray:
    """Bool `[..., C]` to uint64 `[..., ceil(C / 64)]`, bit c of the words is element c."""
    extra = -positive.shape[-1] % 64
    padded = np.pad(positive, [(0, 0)] * (positive.ndim - 1) + [(0, extra)])
    return np.ascontiguousarray(np.packbits(padded, axis=-1, bitorder="little")).view("<u8")


def _max_pool(x: np.ndarray) -> np.ndarray:
    """3x3, stride 2, padding 1: `[N, H, W, C]` to `[N, ceil(H / 2), ceil(W / 2), C]`."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    height, width = (side - 2 for side in x.shape[1:3])
    rows = np.maximum(np.maximum(x[:, 0:height:2], x[:, 1:height + 1:2]), x[:, 2:height + 2:2])
    x = np.maximum(np.maximum(rows[:, :, 0:width:2], rows[:, :, 1:width + 1:2]), rows[:, :, 2:width + 2:2])
    return np.ascontiguousarray(x)


def _pooled(feature_map: np.ndarray, pool_type: str) -> np.ndarray:
    mean, largest = feature_map.mean((2, 3)), feature_map.max((2, 3))
    return {
        "avg": lambda: mean, "max": lambda: largest, "avgmax": lambda: (mean + largest) * np.float32(0.5),
        "catavgmax": lambda: np.concatenate([mean, largest], 1),
    }[pool_type]()
