"""The one place where the bytes of an image file become a PIL RGB image.

What a picture looks like in a viewer is what a network sees: the EXIF orientation is applied (torchvision and timm
ignore it), transparent pixels are laid on white (they drop the alpha channel), and 16-bit grey values are divided by
257 (Pillow's own conversion clips them to 255). Kinds without a known range of values (32-bit integers,
floating-point) are refused.
"""

import functools
import logging
import os
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

_logger = logging.getLogger(__name__)

# Endings of the files that are taken for images, of those that this Pillow reads.
_ENDINGS = (
    ".jpg .jpeg .jpe .jfif .png .webp .tif .tiff .bmp .dib .ppm .pgm .pbm .pnm .gif .jp2 .j2k .tga .avif"
).split()
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")


class UnreadableImageError(OSError):
    """A file that is no image, is too large, or whose pixels have no meaning as 8-bit RGB."""


def image_endings() -> tuple[str, ...]:
    """Endings (`.jpg`, ...) of the image files that the installed Pillow reads."""
    kinds = Image.registered_extensions()
    return tuple(ending for ending in _ENDINGS if kinds.get(ending) in Image.OPEN)


def decode(file: str | os.PathLike | IO[bytes]) -> Image.Image:
    """The image in a file as PIL RGB.

    Raises:
        UnreadableImageError: It is no image, exceeds Pillow's limit of pixels, or has 32-bit grey values.
        Exception: Whatever Pillow raises for a damaged file.
    """
    try:
        with Image.open(file) as image:
            image.load()
            return to_rgb(image)
    except Image.DecompressionBombError as error:
        limit = 2 * Image.MAX_IMAGE_PIXELS
        raise UnreadableImageError(f"exceeds Pillow's limit of {limit:,} pixels: make it smaller") from error
    except UnidentifiedImageError as error:
        raise UnreadableImageError("no image that Pillow reads") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """A decoded image as RGB: upright, transparency on white, 16-bit grey scaled. Raises UnreadableImageError."""
    sixteen_bits = image.mode in _SIXTEEN_BITS or image.mode == "I" and image.format in ("PNG", "PPM")
    if _orientation(image) in range(2, 9):
        image = ImageOps.exif_transpose(image)
    if sixteen_bits:
        _tell_of_sixteen_bits()
        grey = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise UnreadableImageError(f"has pixels of 32 bits (mode {image.mode}) of unknown range: save 8 or 16 bits")
    palette = image.palette.mode if image.mode == "P" and image.palette else ""
    if image.mode in _WITH_ALPHA or palette.endswith("A") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


@functools.cache
def _tell_of_sixteen_bits() -> None:
    """Warns once in a process."""
    _logger.warning("16-bit grey images: their values are divided by 257, to 8 bits")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none or its block is damaged."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow's parser raises anything on damaged EXIF; the pixels are good
        return 1
