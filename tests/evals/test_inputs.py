"""Which splits an evaluation opens, and that it never tests on images it trains on."""

import argparse

import numpy as np
import pytest
from PIL import Image

from burn_timm.data.voc import CLASSES
from burn_timm.errors import BurnError
from burn_timm.evals.inputs import open_splits


def splits(dataset, data_dir, train_split="train", val_split=None, task="linear"):
    keys = {"input_key": None, "target_key": None}
    args = argparse.Namespace(dataset=dataset, data_dir=str(data_dir), train_split=train_split, val_split=val_split,
                              task=task, **keys)
    train, test, name = open_splits(args)
    return len(train), len(test), name


def refused(match, *args, **options):
    with pytest.raises(BurnError, match=match) as error:
        splits(*args, **options)
    assert "\n" not in str(error.value)


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)


@pytest.fixture
def voc(tmp_path):
    """The trainval archive alone, as most people have it."""
    for split, names in {"train": ["1", "2"], "val": ["3"], "trainval": ["1", "2", "3"]}.items():
        for kind in CLASSES:
            file = tmp_path / "ImageSets" / "Main" / f"{kind}_{split}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{name} {1 if kind == 'cat' else -1}\n" for name in names))
    for name in "123":
        photo(tmp_path / "JPEGImages" / f"{name}.jpg")
    return tmp_path


def test_voc07_is_tested_on_its_test_images_or_not_at_all(voc):
    refused(r"no file ImageSets/Main/aeroplane_test.txt .*VOCtest_06-Nov", "voc07", voc, "trainval", task="svm")
    refused("--val-split val: its images are among those of --train-split trainval", "voc07", voc, "trainval", "val",
            task="svm")
    assert splits("voc07", voc, "train", "val", task="svm") == (2, 1, "val")


def test_a_partial_set_names_its_missing_file(tmp_path):
    photo(tmp_path / "images" / "001.A" / "a.jpg")
    (tmp_path / "images.txt").write_text("1 001.A/a.jpg\n2 001.A/b.jpg\n")
    (tmp_path / "image_class_labels.txt").write_text("1 1\n2 1\n")
    (tmp_path / "train_test_split.txt").write_text("1 1\n2 0\n")
    refused("the first is images/001.A/b.jpg; get the set from https://www.vision.caltech.edu", "cub", tmp_path)


def test_the_usual_names_are_tried_in_turn_but_never_the_training_split(tmp_path):
    for split, count in {"train": 3, "test": 2}.items():
        for number in range(count):
            photo(tmp_path / split / "ab"[number % 2] / f"{number}.png")
    assert splits("folder", tmp_path) == (3, 2, "test")
    refused("--val-split train: its images are among those of --train-split", "folder", tmp_path, "train", "train")
    refused(r"no test split: .*no split 'dev'; available: train, test \(name one", "folder", tmp_path, "train", "dev")
