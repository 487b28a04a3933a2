"""Folders of images: what is listed, in which order, and which class it has."""

import logging
import os
import pickle

import numpy as np
import pytest

from burn_timm.data import eval_loader, open_dataset

from .pictures import assert_same_images, digit, names, refused, targets, write


def test_folder_with_classes_and_splits(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for label in ("cat", "dog"):
            for number in range(count):
                write(tmp_path / split / label / f"{number}.png", number)
    for name in ("", "folder", "torch/image_folder"):
        train, val = (open_dataset(name, tmp_path, split=split) for split in ("train", "validation"))
        assert (len(train), len(val)) == (6, 4)
        assert train.class_names == ["cat", "dog"] and train.num_classes == 2 and train.labelled
        assert targets(train) == train.labels().tolist() == [0, 0, 0, 1, 1, 1]
        assert train.name(4) == f"dog/1.png (image 4 of folder {tmp_path.name} [train])"
        assert str(tmp_path.parent) not in train.description
    np.testing.assert_array_equal(np.asarray(train.load(1)[0]), np.asarray(digit(1)))
    assert_same_images(pickle.loads(pickle.dumps(train)), train)
    assert len(open_dataset(str(tmp_path), split="val")) == 4  # the folder as the name
    assert len(open_dataset("", tmp_path / "val", split="validation")) == 4  # a split's folder itself
    with refused("no split 'test'; available: train, val"):
        open_dataset("folder", tmp_path, split="test")
    with refused("no split 'validation'.*without folders such as train and val"):
        open_dataset("folder", tmp_path / "train", split="validation")
    assert train.shared(val) == 0 and train.shared(open_dataset("", tmp_path / "train")) == 6
    (tmp_path / "test").mkdir()
    os.symlink(tmp_path / "train" / "cat" / "0.png", tmp_path / "test" / "0.png")
    assert train.shared(open_dataset("", tmp_path, "test")) == 1


def test_names_of_splits_may_have_capitals(tmp_path):
    """Else Train and Test are classes, and the training sees the test images."""
    for number, folder in enumerate(("Train/cat", "Train/dog", "TEST/cat", "TEST/dog")):
        write(tmp_path / folder / f"{number}.png", number)
    train, test = (open_dataset("folder", tmp_path, split) for split in ("train", "test"))
    assert names(train) == ["cat/0.png", "dog/1.png"] and names(test) == ["cat/2.png", "dog/3.png"]
    assert train.class_names == ["cat", "dog"] and train.shared(test) == 0
    assert names(open_dataset("folder", tmp_path, "Test")) == names(open_dataset("", tmp_path / "TEST", "test"))
    with refused("no split 'val'; available: Train, TEST"):
        open_dataset("folder", tmp_path, "val")
    (tmp_path / "train").mkdir(exist_ok=True)
    if len(os.listdir(tmp_path)) == 3:  # not where Train is train for the file system
        with refused("Train and train are names of one split"):
            open_dataset("folder", tmp_path, "test")


@pytest.mark.parametrize(("written", "listed", "classes"), [
    (["1.jpg", "2.jpg"], ["1.jpg", "2.jpg"], None),
    (["one/images/1.png", "one/2.png"], ["one/2.png", "one/images/1.png"], None),
    (["a/1.png", "b/1.png", "2.png"], ["2.png", "a/1.png", "b/1.png"], None),
    (["cat/1.png", "dog/1.png", "cat/.ipynb_checkpoints/1.png", "dog/.cache/deep/1.png", "__MACOSX/cat/1.png",
      ".hidden/1.png", "cat/._1.png"], ["cat/1.png", "dog/1.png"], ["cat", "dog"]),
    (["class_10/b.png", "class_2/nested/deep/10.png", "class_2/nested/2.png", "class_2/nested/deep/9.png"],
     ["class_2/nested/2.png", "class_2/nested/deep/9.png", "class_2/nested/deep/10.png", "class_10/b.png"],
     ["class_2", "class_10"]),
])
def test_what_is_listed_in_which_order_and_class(tmp_path, written, listed, classes):
    """Nothing hidden; classes are the first level, where all images are in at least two; natural order."""
    for path in written:
        write(tmp_path / "x" / path)
    source = open_dataset("", tmp_path / "x")
    assert names(source) == listed and source.class_names == classes and source.labelled == (classes is not None)
    found = [source.class_names[target] if classes else target for target in targets(source)]
    assert found == [name.split("/")[0] if classes else -1 for name in listed]
    assert source.description.endswith(f"{len(listed)} images, {'2 classes' if classes else 'unlabelled'}")


@pytest.mark.parametrize(("written", "listed"), [
    (["bus/1.png", "car/1.png", "train/1.png"], "train is taken for a split, but .* images in bus, car: rename"),
    (["a/1.png", "b/1.png", "c/deep/1.png", "d/1.png", "eval/1.png"], "eval is taken .* in a, b, c, ...: rename"),
    (["train/bus/1.png", "train/car/1.png", "annotations/none/", ".cache/1.png", "1.png"], 2),
    (["train/1.png", "train/2.png", "val/1.png", "masks/1.png"], 2),  # two splits are no classes
])
def test_a_class_that_has_the_name_of_a_split(tmp_path, written, listed):
    for path in written:
        (tmp_path / "x" / path).mkdir(parents=True) if path.endswith("/") else write(tmp_path / "x" / path)
    if isinstance(listed, str):
        with refused(listed):
            open_dataset("", tmp_path / "x")
    else:
        assert len(open_dataset("", tmp_path / "x")) == listed


def test_what_pillow_reads_is_listed_and_the_rest_is_told_once(tmp_path, caplog):
    kinds = ("jpg", "JPEG", "png", "webp", "tif", "tiff", "bmp", "ppm", "gif")
    for number, kind in enumerate(kinds):
        write(tmp_path / "ab"[number % 2] / f"{number}.{kind}", number)
    for name in ("a/notes.txt", "a/more.txt", "b/photo.xyz", "b/README"):
        (tmp_path / name).write_text("no image")
    with caplog.at_level(logging.WARNING):
        source = open_dataset("", tmp_path)
    assert len(source) == len(kinds) and source.num_classes == 2 and all(source.load(i) for i in range(len(kinds)))
    (told,) = caplog.messages
    assert "left out 4 " in told and "2 .txt" in told and "1 .xyz" in told and "--input-key" in told
    caplog.clear()
    assert names(open_dataset("", tmp_path, input_key=".XYZ;txt")) == ["a/more.txt", "a/notes.txt", "b/photo.xyz"]
    assert not caplog.messages
    (tmp_path / "c").mkdir()
    open_dataset("", tmp_path, input_key=".png;.webp;.jpg;.jpeg")
    assert caplog.messages[0].endswith("no class of folders without an image (1): c")
    caplog.clear()
    os.symlink(tmp_path / "a", tmp_path / "d")
    open_dataset("", tmp_path, input_key=".png;.webp;.jpg;.jpeg")
    assert len(caplog.messages) == 1


def test_links_are_followed_but_a_folder_is_listed_once(tmp_path):
    for number, path in enumerate(("data/cat/1.png", "data/dog/2.png", "elsewhere/3.png")):
        write(tmp_path / path, number)
    root = tmp_path / "data"
    for link, target in (("cat/up", root), ("dog/back", root / "cat"), ("bird", tmp_path / "elsewhere"),
                         ("bird_again", tmp_path / "elsewhere"), ("dog/gone.png", tmp_path / "nothing")):
        os.symlink(target, root / link)
    source = open_dataset("", root)
    assert names(source) == ["bird/3.png", "cat/1.png", "dog/2.png", "dog/gone.png"]
    assert source.class_names == ["bird", "cat", "dog"]
    assert "No such file" in source.why_unreadable(3)


def test_a_broken_image_raises_instead_of_becoming_another(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.png", number, size=60, cut=200 if number == 1 else 0)
    source = open_dataset("folder", tmp_path)
    for _ in range(2):
        with pytest.raises(OSError):
            source.load(1)
    assert source.name(1).startswith("1.png") and "truncated" in source.why_unreadable(1)


def test_a_file_name_of_two_lines_makes_a_message_of_one(tmp_path):
    (tmp_path / "two\nlines.png").write_bytes(b"no image")
    source = open_dataset("", tmp_path)
    assert source.name(0).startswith("two lines.png (image 0")
    with refused("two lines.png"):
        next(eval_loader(source, lambda image: image, batch_size=1, workers=0))
