"""Cached outputs are those of the teacher on the very views; a killed filling goes on."""

import os
import pickle

import numpy as np
import pytest
import torch

from burn_timm.data import open_dataset
from burn_timm.data.loader import ViewDataset, make_train_loader
from burn_timm.data.views import make_view
from burn_timm.errors import BurnError
from burn_timm.training.teacher_cache import KeptViews, TeacherCache, view_seed

SIDE, DIM, COUNT = 24, 12, 3


def outputs(images: torch.Tensor) -> torch.Tensor:
    """A teacher that tells any two views apart."""
    weights = torch.randn(3 * SIDE * SIDE, DIM, generator=torch.Generator().manual_seed(0))
    return images.float().flatten(1) @ weights / 1000


@pytest.fixture(scope="module")
def digits():
    return open_dataset("digits", split="test")


@pytest.fixture
def filled(digits, tmp_path):
    cache = TeacherCache(tmp_path, digits, COUNT, DIM, "teacher")
    assert cache.fill(make_view("light", SIDE), outputs, 100) == COUNT * len(digits)
    return cache


def test_a_batch_has_what_the_teacher_said_of_its_views(digits, filled):
    teacher_views, student_views = (
        ViewDataset(digits, {"views": [make_view("light", side)]}, 0) for side in (SIDE, 16)
    )
    drawn, kept = set(), KeptViews({"views": [make_view("light", 16)]}, 7, filled)
    for batch in make_train_loader(kept, batch_size=32, micro_steps_per_epoch=2, total_micro_steps=4, workers=0):
        assert batch["teacher"].dtype == torch.float16 and batch["teacher"].shape == (32, 1, DIM)
        for seen, taught in zip(batch["views"], batch["teacher"], strict=True):
            which, index = where(filled, taught[0])
            drawn.add(which)
            seed = view_seed(which, index)
            assert torch.equal(seen, student_views.item(index, seed)["views"])
            expected = outputs(teacher_views.item(index, seed)["views"])  # one image at a time: other roundings
            torch.testing.assert_close(taught.float(), expected, rtol=2e-3, atol=2e-3)
    assert drawn == set(range(COUNT))


def where(cache, row) -> tuple[int, int]:
    for which, path in enumerate(cache.paths):
        at = (np.fromfile(path, np.float16).reshape(-1, DIM) == row.numpy()).all(1).nonzero()[0]
        if len(at):
            return which, int(at[0])
    raise AssertionError("no such row")


def test_a_killed_filling_goes_on(digits, filled):
    before = [path.read_bytes() for path in filled.paths]
    rows = 130
    with open(filled.paths[1], "r+b") as file:
        file.truncate(rows * DIM * 2 + 5)  # in the middle of a row
    filled.paths[2].unlink()
    view = make_view("light", SIDE)
    assert filled.fill(view, outputs, 100, workers=2) == 2 * len(digits) - rows
    assert [path.read_bytes() for path in filled.paths] == before
    assert filled.fill(view, lambda images: pytest.fail("nothing is missing"), 100) == 0


def test_a_write_that_is_cut_short_is_an_error(digits, tmp_path, monkeypatch):
    cache = TeacherCache(tmp_path, digits, 1, DIM, "full disk")
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, at: write(file, content[:-1], at))
    with pytest.raises(BurnError, match="No space left"):
        cache.fill(make_view("none", SIDE), outputs, 100)


def test_files_are_those_of_teacher_and_images(digits, tmp_path):
    other = open_dataset("digits")
    paths = [TeacherCache(tmp_path, *of).paths for of in (
        (digits, 1, DIM, "a"), (digits, 2, DIM, "a"), (digits, 1, DIM, "b"), (other, 1, DIM, "a"),
    )]
    assert paths[0] == paths[1][:1]  # more views: the first ones are there
    assert len({each[0] for each in paths}) == 3


def test_a_copy_maps_the_files_for_itself(filled):
    assert torch.equal(pickle.loads(pickle.dumps(filled)).read(1, 5), filled.read(1, 5))


def test_outputs_that_float16_cannot_hold(digits, tmp_path):
    cache = TeacherCache(tmp_path, digits, 1, DIM, "large")
    with pytest.raises(BurnError, match="float16"):
        cache.fill(make_view("none", SIDE), lambda images: outputs(images) * 1e6, 100)
