"""The 1,797 handwritten digits inside scikit-learn (UCI Optical Recognition of Handwritten Digits): no download."""

import numpy as np
from PIL import Image

from burn_timm.data.sources import ImageSource, Store
from burn_timm.errors import NoSplitError

_TEST_NAMES = ("test", "validation", "val")
_FRAME = 48  # px
_LEFT = 448  # columns of the photos' 640 that training images are cut from; test images are cut from the others
_DIMMED = 0.6  # contrast of the photo behind a digit
_INK = 56  # levels from black or white that the colour of a digit has at most


class _Arrays(Store):
    """Images, uint8 [N, H, W] or [N, H, W, 3]."""

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
    test, scans, targets = _split("digits", split)
    return _source("digits", test, np.rint(scans * 255).astype(np.uint8), targets)


def open_digits_in_photos(split: str) -> ImageSource:
    """The same digits at random places and sizes in parts of scikit-learn's two photos: RGB, 48 x 48.

    The splits are those of `open_digits`, and each has its own part of the photos. A digit is almost white on a
    darkened background or almost black on a lightened one. Raises BurnError for another split.
    """
    from sklearn.datasets import load_sample_images

    test, scans, targets = _split("digits_in_photos", split)
    random = np.random.RandomState(int(test))
    photos = [photo[:, _LEFT:] if test else photo[:, :_LEFT] for photo in load_sample_images().images]
    images = [_in_photo(scan, photos[random.randint(len(photos))], random) for scan in scans]
    return _source("digits_in_photos", test, np.stack(images), targets)


def _in_photo(scan: np.ndarray, photo: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """A digit [8, 8] in [0, 1] on a piece of a photo, uint8 [48, 48, 3]."""
    side = random.randint(_FRAME, 3 * _FRAME + 1)
    top, left = (random.randint(length - side + 1) for length in photo.shape[:2])
    piece = Image.fromarray(photo[top : top + side, left : left + side])
    frame = np.array(piece.resize((_FRAME, _FRAME), Image.Resampling.BOX), dtype=float)
    side = random.randint(_FRAME // 2, _FRAME * 5 // 6 + 1)
    top, left = random.randint(_FRAME - side + 1, size=2)
    ink = np.array(Image.fromarray(scan.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC))
    ink = np.clip(2 * ink - 0.4, 0, 1)[..., None]  # narrower edges
    place, colour = frame[top : top + side, left : left + side], random.randint(_INK, size=3)
    if place.mean() < 128:
        colour = 255 - colour
        frame *= _DIMMED
    else:
        frame += (1 - _DIMMED) * (255 - frame)
    place += ink * (colour - place)
    return np.rint(frame).astype(np.uint8)


def _split(name: str, split: str) -> tuple[bool, np.ndarray, np.ndarray]:
    """Whether it is the test split, and its scans [N, 8, 8] in [0, 1] with their classes."""
    test = split in _TEST_NAMES
    if split != "train" and not test:
        raise NoSplitError(f"dataset {name}: no split {split!r}; available: train, test (also called validation)")
    from sklearn.datasets import load_digits

    digits = load_digits()
    # RandomState: its stream is frozen, a Generator's may change with numpy.
    shuffled = np.random.RandomState(0).permutation(len(digits.target))
    order = shuffled[np.argsort(digits.target[shuffled], kind="stable")]
    in_test = np.zeros(len(order), dtype=bool)
    in_test[order[::5]] = True
    chosen = in_test == test
    return test, digits.images[chosen] / 16, digits.target[chosen]


def _source(name: str, test: bool, pixels: np.ndarray, targets: np.ndarray) -> ImageSource:
    title = f"{name} [{'test' if test else 'train'}]"
    return ImageSource(_Arrays(pixels), title, targets, [str(digit) for digit in range(10)], cache=False)
