"""Which splits an evaluation opens, and that it never tests on images it trains on."""

import argparse
import shutil

import numpy as np
import pytest
from PIL import Image

from burn_timm.errors import BurnError
from burn_timm.evals.inputs import open_splits


def opened(dataset, data_dir, train_split=None, val_split=None, multi_label=False):
    args = argparse.Namespace(dataset=dataset, data_dir=data_dir and str(data_dir), train_split=train_split, seed=0,
                              val_split=val_split, input_key=None, target_key=None, limit_train=None, limit_test=None)
    return open_splits(args, multi_label)


def splits(*args, **options):
    train, test = opened(*args, **options)
    return len(train.source), len(test.used), test.name


def refused(match, *args, **options):
    with pytest.raises(BurnError, match=match) as error:
        splits(*args, **options)
    assert "\n" not in str(error.value)


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)


def test_voc07_is_trained_on_trainval_and_tested_on_its_test_images_or_not_at_all(voc, tmp_path):
    assert splits("voc07", voc, multi_label=True) == (48, 12, "test")  # of the 48, trainval, 36 are `train`
    shutil.copytree(voc, tmp_path / "alone")  # the trainval archive alone, as most people have it
    for path in (tmp_path / "alone").rglob("*_test.txt"):
        path.unlink()
    arguments = "voc07", tmp_path / "alone"
    refused(r"no file ImageSets/Main/aeroplane_test.txt .*VOCtest_06-Nov", *arguments, "trainval", multi_label=True)
    refused("--val-split val: 12 of its 12 images are among those of --train-split trainval", *arguments, "trainval",
            "val", multi_label=True)
    refused("--val-split trainval: 12 of its 48 images are among", *arguments, "val", "trainval", multi_label=True)
    assert splits(*arguments, "train", "val", multi_label=True) == (36, 12, "val")


def test_the_usual_names_are_tried_in_turn_but_never_the_training_split(tmp_path):
    for split, count in {"train": 3, "test": 2}.items():
        for number in range(count):
            photo(tmp_path / split / "ab"[number % 2] / f"{number}.png")
    assert splits("folder", tmp_path) == (3, 2, "test")
    refused("--val-split train: 3 of its 3 images are among those of", "folder", tmp_path, "train", "train")
    refused(r"no test split: .*no split 'dev'; available: train, test \(name one", "folder", tmp_path, "train", "dev")


def test_classes_are_joined_by_name(tmp_path):
    for name in ("train/a", "train/b", "train/c", "val/a", "val/c"):
        photo(tmp_path / name / "0.png")
    _, test = opened("folder", tmp_path)
    assert test.used.labels().tolist() == [0, 2]  # the second folder of val is c, the third one of train
    shutil.rmtree(tmp_path / "val")
    (tmp_path / "val").mkdir()  # a damaged split, without an image, is not passed over
    (tmp_path / "train").rename(tmp_path / "test")
    shutil.copytree(tmp_path / "test", tmp_path / "train")
    refused("Found 0 images", "folder", tmp_path)


def test_training_images_under_another_name_are_no_test_images(tmp_path):
    for kind in ("a", "b"):
        photo(tmp_path / "train" / kind / "0.png")
        photo(tmp_path / "val" / kind / "0.png")
    (tmp_path / "val" / "a" / "1.png").symlink_to(tmp_path / "train/a/0.png")
    refused("--val-split validation: 1 of its 3 images are among those of --train-split train", "folder", tmp_path)
    (tmp_path / "val/a/1.png").unlink()
    assert splits("folder", tmp_path) == (2, 2, "validation")
    refused("360 of its 360 images are among", "digits", None, "validation", "test")


@pytest.mark.parametrize(("train", "val"), [("train", "training"), ("validation", "test")])
def test_torchvisions_sets_have_two_splits_with_many_names(tmp_path, train, val):
    from torchvision.datasets import MNIST

    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, count in (("train", 6), ("t10k", 4)):
        images = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28)) + bytes(count * 28 * 28)
        labels = b"\0\0\x08\x01" + count.to_bytes(4, "big") + bytes(range(count))
        (folder / f"{name}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(labels)
    assert len(MNIST(tmp_path)) == 6
    assert splits("torch/mnist", tmp_path) == (6, 4, "validation")
    refused("images are among those of --train-split", "torch/mnist", tmp_path, train, val)
    (folder / "t10k-images-idx3-ubyte").unlink()
    refused("--dataset torch/mnist in .*Dataset not found", "torch/mnist", tmp_path)
