"""The 1,797 handwritten digits inside scikit-learn (UCI Optical Recognition of Handwritten Digits): no download."""

import numpy as np
from PIL import Image

from burn_timm.data.sources import ImageSource, Store
from burn_timm.errors import NoSplitError

_TEST_NAMES = ("test", "validation", "val")


class _Arrays(Store):
    """Grey images, uint8 [N, H, W]."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self._pixels[index]).convert("RGB")


def open_digits(split: str) -> ImageSource:
    """8x8 digits as RGB images: split 'train' (1,437) or 'test' (360; 'validation' means the same).

    The split is fixed: the samples are ordered by class and shuffled within a class by a fixed seed; every fifth is a
    test sample. So each class gives a fifth of its images. Raises BurnError for another split.
    """
    if split != "train" and split not in _TEST_NAMES:
        raise NoSplitError(f"dataset digits: no split {split!r}; available: train, test (also called validation)")
    from sklearn.datasets import load_digits

    digits = load_digits()
    # RandomState: its stream is frozen, a Generator's may change with numpy.
    shuffled = np.random.RandomState(0).permutation(len(digits.target))
    order = shuffled[np.argsort(digits.target[shuffled], kind="stable")]
    in_test = np.zeros(len(order), dtype=bool)
    in_test[order[::5]] = True
    chosen = in_test if split in _TEST_NAMES else ~in_test
    pixels = np.rint(digits.images[chosen] * (255 / 16)).astype(np.uint8)  # stored as 0 to 16
    names = [str(name) for name in digits.target_names]
    title = f"digits [{'test' if split in _TEST_NAMES else 'train'}]"
    return ImageSource(_Arrays(pixels), title, digits.target[chosen], names, cache=False)
