"""Colour jitter on a float32 array [3, H, W] in [0, 1], in numpy. Every function changes `x` itself.

The same operations as torchvision's ColorJitter on float tensors (the tests compare them). They are written again
because jitter is most of a view's time: a whole `burn` view takes half the time of the same transforms of torchvision
on a Pillow image at 32 px (0.22 against 0.44 ms of one core), and a third at 224 px (1.8 against 5.8 ms). numpy also
stays on one thread: loader workers do not fight for cores.
"""

import numpy as np

_LUMA = np.array([0.2989, 0.587, 0.114], dtype=np.float32)  # ITU-R 601-2, as in torchvision
_SIXTH = np.float32(1 / 6)
_NO_CHROMA = np.float32(1e-8)


def grey(x: np.ndarray) -> np.ndarray:
    """Luma of `x` [3, H, W], a new array [H, W]."""
    luma = x[0] * _LUMA[0]  # not a product of matrices: BLAS would start threads
    luma += x[1] * _LUMA[1]
    luma += x[2] * _LUMA[2]
    return luma


def brightness(x: np.ndarray, factor: float) -> None:
    """`x` times `factor`, clipped to [0, 1]."""
    x *= np.float32(factor)
    np.clip(x, 0.0, 1.0, out=x)


def contrast(x: np.ndarray, factor: float) -> None:
    """`x` moved away from (factor > 1) or towards (< 1) the mean luma of the image, clipped to [0, 1]."""
    _away_from(x, grey(x).mean(dtype=np.float32), factor)


def saturation(x: np.ndarray, factor: float) -> None:
    """`x` moved away from (factor > 1) or towards (< 1) its own luma, clipped to [0, 1]."""
    _away_from(x, grey(x), factor)


def hue(x: np.ndarray, shift: float) -> None:
    """`x` with its HSV hue turned by `shift` of a full circle (-0.5 to 0.5); saturation and value stay."""
    red, green, blue = x
    value = np.maximum(red, green)
    np.maximum(value, blue, out=value)
    chroma = np.minimum(red, green)
    np.minimum(chroma, blue, out=chroma)
    np.subtract(value, chroma, out=chroma)
    # The hue in sixths of a circle, by which channel is the largest. A grey pixel has none: it comes out as 0.
    cases = np.stack((green - blue, blue - red, red - green))
    cases /= np.maximum(chroma, _NO_CHROMA)
    cases[1] += 2
    cases[2] += 4
    sixths = np.where(value == red, cases[0], np.where(value == green, cases[1], cases[2]))
    sixths += np.float32(6 * shift)
    # How far a channel lies below the value, over chroma: clip(2 - |(h + offset) mod 6 - 3|, 0, 1), offsets 0, 4, 2.
    for channel, offset in zip(x, (0, 4, 2), strict=True):
        np.add(sixths, offset, out=channel)
    turns = x * _SIXTH  # np.mod on floats is ten times slower
    np.floor(turns, out=turns)
    turns *= 6
    x -= turns
    x -= 3
    np.abs(x, out=x)
    np.subtract(2, x, out=x)
    np.clip(x, 0.0, 1.0, out=x)
    x *= chroma
    np.subtract(value, x, out=x)


def _away_from(x: np.ndarray, middle: np.ndarray, factor: float) -> None:
    x -= middle
    x *= np.float32(factor)
    x += middle
    np.clip(x, 0.0, 1.0, out=x)
