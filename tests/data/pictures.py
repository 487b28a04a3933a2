"""What the tests of datasets share: scanned digits as image files, and errors of one line."""

import contextlib
import functools
import io
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

from burn_timm.data import ViewDataset, make_train_loader, micro_steps_per_epoch, open_dataset
from burn_timm.data.views import Drawn, made_views, view_groups
from burn_timm.errors import BurnError

STILL = Drawn((0, 0, 48, 48), (), (1.0, 1.0, 1.0, 0.0), False, 0.0, False, False)  # changes nothing


@contextlib.contextmanager
def refused(told: str):
    """Expects a BurnError of one line that matches `told`."""
    with pytest.raises(BurnError, match=told) as info:
        yield
    assert "\n" not in str(info.value)


def refused_set(told: str, *args) -> None:
    """Expects that `open_dataset` refuses these arguments."""
    with refused(told):
        open_dataset(*args)


def warned(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@functools.cache
def scans() -> np.ndarray:
    """scikit-learn's digits, uint8 [1797, 8, 8]; it takes its time to read them."""
    return (load_digits().images * 15).astype(np.uint8)


@functools.cache
def photo() -> Image.Image:
    """640 x 427."""
    return Image.fromarray(load_sample_image("china.jpg"))


def digit(number: int, size: int = 16) -> Image.Image:
    return Image.fromarray(scans()[number]).convert("RGB").resize((size, size))


def write(path: Path, number: int = 0, size: int = 16, cut: int = 0) -> None:
    """An image file of a digit, `cut` bytes short."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digit(number, size).save(path)
    if cut:
        path.write_bytes(path.read_bytes()[:-cut])


def png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(scans()[number]).save(stream, "PNG")
    return stream.getvalue()


def targets(source) -> list[int]:
    return [source.load(index)[1] for index in range(len(source))]


def names(source) -> list[str]:
    return [source.file_name(index) for index in range(len(source))]


def assert_same_images(one, other) -> None:
    assert len(one) == len(other)
    for index in range(len(one)):
        (image, target), (expected, expected_target) = one.load(index), other.load(index)
        assert target == expected_target and image.size == expected.size
        assert image.tobytes() == expected.tobytes() and image.mode == "RGB"


def train_loader(
    source, view, *, n_views=2, small_view=None, n_small_views=0, seed=5, make=made_views, start=0, total=4,
    batch_size=8, world_size=1, workers=0, **options,
):
    """`make_train_loader` with small numbers where none are given."""
    views = ViewDataset(source, view_groups(view, n_views, small_view, n_small_views), seed, make)
    return make_train_loader(
        views, batch_size=batch_size, world_size=world_size, start_micro_step=start, total_micro_steps=total,
        micro_steps_per_epoch=micro_steps_per_epoch(len(source), batch_size, world_size), workers=workers, **options,
    )
