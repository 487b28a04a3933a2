"""Shapes and tables of the kernels; numpy only."""

import numpy as np

LANES = {"bits": 8, "floats": 16}  # outputs in one vector of 64 bytes
VECTORS = (4, 2, 1)  # in a block
_SUMS = 8192  # of 4 bytes, for one piece of an image: they stay in the first cache


def pixels_at_a_time(outputs: int) -> int:
    return max(4, _SUMS // outputs)


def block_width(outputs: int, kind: str) -> int:
    """Outputs in a block of weights; kind `bits` or `floats`."""
    return next(count for count in VECTORS if count == 1 or outputs >= LANES[kind] * count) * LANES[kind]


def out_side(side: int, size: int, stride: int, padding: int) -> int:
    return (side + 2 * padding - size) // stride + 1


def sums_without_mismatch(
    inputs: int, ones: np.ndarray, height: int, width: int, stride: int, padding: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a sum of +-1 is where nothing differs, by the pixel's place, as padding does not count.

    A tap in the padding compares with zeros: `ones` `[O, k, k]`, the taps' positive weights, are what differs there,
    and are given back.

    Returns:
        int32 `[row classes, column classes, O]`, and the class of each output row and column, int64.
    """
    size = ones.shape[1]
    row_class, row_taps = _classes(height, size, stride, padding)
    column_class, column_taps = _classes(width, size, stride, padding)
    most = np.empty((len(row_taps), len(column_taps), len(ones)), np.int32)
    for i, rows in enumerate(row_taps):
        for j, columns in enumerate(column_taps):
            inside = np.outer(rows, columns)
            most[i, j] = inputs * inside.sum() + 2 * (ones * ~inside).sum((1, 2))
    return most, row_class, column_class


def _classes(side: int, size: int, stride: int, padding: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """For each output position along a side the number of its class, and for each class which taps lie inside."""
    starts = np.arange(out_side(side, size, stride, padding))[:, None] * stride - padding + np.arange(size)
    inside = (starts >= 0) & (starts < side)
    patterns, classes = np.unique(inside, axis=0, return_inverse=True)
    return classes.reshape(-1).astype(np.int64), list(patterns)
