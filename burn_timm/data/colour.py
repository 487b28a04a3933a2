"""Colour jitter on a float array [3, H, W] in [0, 1], in numpy.

The same operations as torchvision's ColorJitter on float tensors (the tests compare them). They are written again
because jitter is most of a view's time: Pillow converts to HSV and back slowly, and torchvision's tensor path pays for
its dispatch at 32 px. numpy also stays on one thread, so that loader workers do not fight for the cores.
"""

import numpy as np

_LUMA = np.array([0.2989, 0.587, 0.114], dtype=np.float32)  # ITU-R 601-2, as in torchvision
# Channel c of a fully saturated colour of hue h (in sixths of a circle) is clip(|(h + offset_c) mod 6 - 3| - 1, 0, 1).
_HUE_OFFSETS = np.array([0.0, 4.0, 2.0], dtype=np.float32).reshape(3, 1, 1)


def grey(x: np.ndarray) -> np.ndarray:
    """Luma of `x` [3, H, W], as [H, W]."""
    return np.tensordot(_LUMA, x, axes=1)


def brightness(x: np.ndarray, factor: float) -> np.ndarray:
    """`x` times `factor`, clipped to [0, 1]."""
    return np.clip(x * np.float32(factor), 0.0, 1.0)


def contrast(x: np.ndarray, factor: float) -> np.ndarray:
    """`x` moved away from (factor > 1) or towards (< 1) the mean luma of the image, clipped to [0, 1]."""
    mean = grey(x).mean(dtype=np.float32)
    return np.clip((x - mean) * np.float32(factor) + mean, 0.0, 1.0)


def saturation(x: np.ndarray, factor: float) -> np.ndarray:
    """`x` moved away from (factor > 1) or towards (< 1) its own luma, clipped to [0, 1]."""
    luma = grey(x)
    return np.clip((x - luma) * np.float32(factor) + luma, 0.0, 1.0)


def hue(x: np.ndarray, shift: float) -> np.ndarray:
    """`x` with its HSV hue turned by `shift` of a full circle (-0.5 to 0.5); saturation and value stay."""
    red, green, blue = x
    value = x.max(axis=0)
    chroma = value - x.min(axis=0)
    scale = 1.0 / np.where(chroma == 0, np.float32(1.0), chroma)  # a grey pixel has no hue and any will do
    sixths = np.where(
        value == red,
        (green - blue) * scale,
        np.where(value == green, (blue - red) * scale + 2.0, (red - green) * scale + 4.0),
    )
    turned = sixths + np.float32(6.0 * shift) + _HUE_OFFSETS
    turned -= 6.0 * np.floor(turned * np.float32(1 / 6))  # np.mod on floats is ten times slower
    pure = np.clip(np.abs(turned - 3.0) - 1.0, 0.0, 1.0)
    return value - chroma * (1.0 - pure)
