"""The engine in C (`burn_timm/kernels/burn.c`): the file network.bin, and running it through ctypes.

docs/packed-format.md describes network.bin; `network_bytes` writes it and burn.c reads it.
"""

import os
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..errors import BurnError
from ..kernels import native
from ..kernels.burn import Network
from .fold import FoldedNetwork, half_precision

VERSION, MAX_COUNT, MAX_THREADS = 1, 65535, 1024  # as burn.c has them
POOLING = ("", "avg", "max", "avgmax", "catavgmax")
C_SOURCES = ("burn.h", "burn_kernels.h", "burn.c", "main.c", "burn.py")
_WORD = (1 << 64) - 1


def write(
    network: FoldedNetwork, folder: Path, shape: tuple[int, int, int, int], mean: Sequence[float], std: Sequence[float],
) -> None:
    """Write network.bin, and what runs it: burn.c, its headers and main.c for C programmers, burn.py for Python."""
    (folder / "network.bin").write_bytes(network_bytes(network, shape[1:], mean, std))
    for name in C_SOURCES:
        shutil.copyfile(Path(native.__file__).parent / name, folder / name)


def open_network(
    folder: Path, shape: tuple[int, int, int, int], threads: int | None,
) -> tuple[set[str], Callable[[np.ndarray, str], np.ndarray]]:
    """Names of the outputs of an exported folder, and a function that gives one of them, an array of its own.

    Args:
        folder: With network.bin.
        shape: Of the images, `[B, C, H, W]`.
        threads: At most; None: all cores.

    Raises:
        BurnError: The library cannot be built or the file is damaged.
    """
    data = (folder / "network.bin").read_bytes()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    network = Network(data, min(threads or cores, MAX_THREADS), folder, native.load())
    return network.outputs, network


def network_bytes(
    network: FoldedNetwork, input_size: tuple[int, int, int], mean: Sequence[float], std: Sequence[float],
) -> bytes:
    """The content of network.bin for images `[C, H, W]`, which are normalised by `mean` and `std`.

    Raises:
        BurnError: A size that burn.c does not take.
    """
    _check_sizes(network, input_size)
    outputs, _, size, _ = network.stem_weight.shape
    weight, bias = network.classifier or (None, ())
    weight = None if weight is None else half_precision(weight)
    half = weight is not None and weight.dtype == np.float16
    pooling = POOLING.index(network.pool_type)
    counts = (outputs, size, network.stem_pool, len(network.steps), pooling, len(bias), half)
    parts = [struct.pack("<11I", VERSION, *input_size, *counts), _floats(mean), _floats(std)]
    for step in network.steps:
        rows, inputs, kernel, _ = step.positive.shape
        flags = (step.stride, step.padding, step.pool, step.repeat, step.project is not None)
        parts.append(struct.pack("<8I", inputs, rows, kernel, *flags))
    parts += [_floats(network.stem_weight.transpose(0, 2, 3, 1)), _floats(network.stem_bias)]
    for step in network.steps:
        parts += map(_floats, (step.threshold, step.scale, step.bias, step.slope))
        parts.append(words_of(step.positive.transpose(0, 2, 3, 1)).tobytes())
        parts += [_floats(step.project)] if step.project is not None else []
    parts.append(_floats(network.shift))
    if weight is not None:
        content = weight.astype("<f2").tobytes() if half else _floats(weight)
        parts += [content, bytes(-len(content) % 4), _floats(bias)]
    content = b"".join(parts)
    return b"BURN1BIT" + struct.pack("<Q", _checksum(content)) + content


def _check_sizes(network: FoldedNetwork, input_size: tuple[int, int, int]) -> None:
    """Raise BurnError where burn.c would refuse the file."""
    stem, classifier = network.stem_weight.shape, network.classifier
    sizes = [
        ("channels of the images", input_size[0], 1024), ("pixels a side", max(input_size[1:]), 8192),
        ("outputs of the stem", stem[0], 8192), ("pixels of the stem's kernel", stem[-1], 11),
        ("binary convolutions", len(network.steps), 1024),
        ("classes", len(classifier[1]) if classifier else 0, 1 << 20),
    ]
    for step in network.steps:
        outputs, inputs, kernel, _ = step.positive.shape
        if kernel**2 * -(-inputs // 64) * 64 > MAX_COUNT:
            raise BurnError(f"a binary {kernel}x{kernel} convolution of {inputs} channels is too large for --format c")
        sizes += [
            ("outputs of a binary convolution", outputs, 8192), ("pixels of a binary kernel", kernel, 11),
            ("pixels of stride", step.stride, 2), ("pixels of padding", step.padding, kernel - 1),
        ]
    if classifier and not network.pool_type:
        raise BurnError("a classifier without pooling: --format c has none")
    for name, size, most in sizes:
        if size > most:
            raise BurnError(f"{size:,} {name}: --format c takes at most {most:,}")


def words_of(positive: np.ndarray) -> np.ndarray:
    """Bool `[..., C]` to uint64 `[..., ceil(C / 64)]`, bit c of the words is element c."""
    extra = -positive.shape[-1] % 64
    padded = np.pad(positive, [(0, 0)] * (positive.ndim - 1) + [(0, extra)])
    return np.ascontiguousarray(np.packbits(padded, axis=-1, bitorder="little")).view("<u8")


def _floats(values: Sequence[float] | np.ndarray) -> bytes:
    return np.ascontiguousarray(values, "<f4").tobytes()


def _checksum(content: bytes) -> int:
    """As burn.c computes it: over words of eight bytes, beginning with the length."""
    total = len(content)
    for word in np.frombuffer(content + bytes(-len(content) % 8), "<u8").tolist():
        total = ((total ^ word) * 0x9E3779B97F4A7C15) & _WORD
        total ^= total >> 29
    return total
