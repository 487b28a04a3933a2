"""Bytes to RGB: the right value of each kind of picture that Pillow can write."""

import io

import numpy as np
import PIL
import pytest
from PIL import ExifTags, Image
from sklearn.datasets import load_sample_image

from burn_timm.data import decode as decode_module
from burn_timm.data.decode import UnreadableImageError, decode, image_endings

RAMP = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)


def written(image: Image.Image, kind: str = "PNG", **options) -> np.ndarray:
    """The image, written and decoded."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    stream.seek(0)
    rgb = decode(stream)
    assert rgb.mode == "RGB"
    return np.asarray(rgb)


def test_sixteen_bit_grey_is_scaled_and_told_of_once(caplog):
    decode_module._tell_of_sixteen_bits.cache_clear()
    for kind in ("PNG", "TIFF", "PPM"):
        pixels = written(Image.fromarray(RAMP), kind)
        for channel in range(3):
            np.testing.assert_array_equal(pixels[..., channel], np.rint(RAMP / 257))
    assert caplog.text.count("16-bit grey images") == 1


@pytest.mark.parametrize("mode", ["I", "F"])
def test_grey_of_unknown_range_is_refused(mode):
    with pytest.raises(UnreadableImageError, match=f"32 bits .mode {mode}.*save 8 or 16 bits"):
        written(Image.fromarray(RAMP.astype(np.int32)).convert(mode), "TIFF")


@pytest.mark.parametrize("mode", ["RGBA", "P", "RGB"])
def test_transparent_pixels_lie_on_white(mode):
    """Red pixels of which the left half is transparent, in several ways of saying so."""
    left, options = np.arange(8) < 4, {"transparency": 0}
    if mode == "RGBA":
        rgba = np.where(left[:, None], [255, 0, 0, 0], [255, 0, 0, 255])
        image, options = Image.fromarray(np.stack([rgba.astype(np.uint8)] * 4)), {}
    elif mode == "P":
        image = Image.fromarray(np.stack([np.where(left, 0, 1).astype(np.uint8)] * 4)).convert("P")
        image.putpalette([255, 0, 0, 255, 0, 0])
    else:  # one colour of it is transparent
        image = Image.fromarray(np.stack([np.where(left[:, None], [0, 0, 9], [255, 0, 0]).astype(np.uint8)] * 4))
        options = {"transparency": (0, 0, 9)}
    pixels = written(image, **options)
    assert (pixels[:, :4] == 255).all() and (pixels[:, 4:] == [255, 0, 0]).all()


def test_half_transparent_grey_is_half_white():
    pixels = written(Image.merge("LA", (Image.new("L", (3, 3), 40), Image.new("L", (3, 3), 51))))
    assert (pixels == round(0.2 * 40 + 0.8 * 255)).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied(kind, orientation):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16], upright[8:, 16:] = 255, 120
    # What a camera stores so that the picture comes out upright.
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
              5: upright.transpose(1, 0, 2), 6: np.rot90(upright), 7: np.rot90(upright, 2).transpose(1, 0, 2),
              8: np.rot90(upright, -1)}[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    pixels = written(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif.tobytes())
    assert pixels.shape == upright.shape and np.abs(pixels.astype(int) - upright).mean() < 3


def test_damaged_exif_is_no_reason_to_lose_a_picture():
    photo = Image.fromarray(load_sample_image("china.jpg")).resize((40, 30))
    assert written(photo, "JPEG", exif=b"Exif\x00\x00nonsense").shape == (30, 40, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "RGB"])
def test_other_modes_are_converted_as_pillow_does(mode):
    if mode == "YCbCr" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("earlier versions of Pillow cannot read the YCbCr file that they write")
    photo = Image.fromarray(load_sample_image("china.jpg")).resize((40, 30)).convert(mode)
    kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    np.testing.assert_array_equal(written(photo, kind), np.asarray(photo.convert("RGB")))


def test_a_picture_beyond_pillows_limit_says_so(monkeypatch):
    monkeypatch.setattr(decode_module.Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(UnreadableImageError, match="exceeds Pillow's limit of 800 pixels"):
        written(Image.new("L", (30, 30)))


def test_endings_are_of_kinds_that_pillow_reads():
    assert {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".gif"} <= set(image_endings())
