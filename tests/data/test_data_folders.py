"""Folders and tars of images: what is listed, in which order, and which class it has."""

import logging
import os
import pickle
import tarfile

import numpy as np
import pytest

from burn_timm.data import eval_loader, open_dataset

from .pictures import assert_same_images, digit, names, refused, targets, write


def test_folder_with_classes_and_splits(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for label in ("cat", "dog"):
            for number in range(count):
                write(tmp_path / split / label / f"{number}.png", number)
    for name in ("", "folder"):
        train, val = (open_dataset(name, tmp_path, split=split) for split in ("train", "validation"))
        assert (len(train), len(val)) == (6, 4)
        assert train.class_names == ["cat", "dog"] and train.num_classes == 2 and train.labelled
        assert targets(train) == train.labels().tolist() == [0, 0, 0, 1, 1, 1]
        assert train.name(4) == f"dog/1.png (image 4 of folder {tmp_path.name} [train])"
        assert str(tmp_path.parent) not in train.description
    np.testing.assert_array_equal(np.asarray(train.load(1)[0]), np.asarray(digit(1)))
    assert len(open_dataset(str(tmp_path), split="val")) == 4  # the folder as the name
    assert len(open_dataset("", tmp_path / "val", split="validation")) == 4  # a split's folder itself
    with refused("no split 'test'; available: train, val"):
        open_dataset("folder", tmp_path, split="test")
    with refused("no split 'validation'.*only train"):
        open_dataset("folder", tmp_path / "train", split="validation")
    assert train.shared(val) == 0 and train.shared(open_dataset("", tmp_path / "train")) == 6
    (tmp_path / "test").mkdir()
    os.symlink(tmp_path / "train" / "cat" / "0.png", tmp_path / "test" / "0.png")
    assert train.shared(open_dataset("", tmp_path, "test")) == 1


@pytest.mark.parametrize("paths", [["{}.jpg"], ["one/images/{}.png"], ["sub/{}.png", "{}.png"]])
def test_unlabelled_folders(tmp_path, paths):
    for number in range(4):
        write(tmp_path / "x" / paths[number % len(paths)].format(number), number)
    source = open_dataset("folder", tmp_path / "x")
    assert not source.labelled and source.num_classes is None and source.class_names is None
    assert targets(source) == [-1] * 4
    assert source.description == "folder x [train], 4 images, unlabelled"


def test_hidden_files_and_folders_are_no_data(tmp_path):
    for label in ("cat", "dog"):
        write(tmp_path / label / "1.png")
        for hidden in (f"{label}/.ipynb_checkpoints", f"{label}/.cache/deep", "__MACOSX/cat", ".hidden"):
            write(tmp_path / hidden / "1.png")
        (tmp_path / label / "._1.png").write_bytes(b"of a Mac")
    source = open_dataset("", tmp_path)
    assert names(source) == ["cat/1.png", "dog/1.png"] and targets(source) == [0, 1]
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(tmp_path, ".", filter=lambda member: None if member.name.endswith(".tar") else member)
    assert targets(open_dataset("", tmp_path / "all.tar")) == [0, 1]


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


def test_classes_are_the_first_level_in_natural_order(tmp_path):
    for path in ("class_10/b.png", "class_2/nested/deep/10.png", "class_2/nested/2.png", "class_2/nested/deep/9.png"):
        write(tmp_path / path)
    source = open_dataset("", tmp_path)
    assert source.class_names == ["class_2", "class_10"] and targets(source) == [0, 0, 0, 1]
    assert names(source) == [
        "class_2/nested/2.png", "class_2/nested/deep/9.png", "class_2/nested/deep/10.png", "class_10/b.png",
    ]


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


@pytest.mark.parametrize("above", ["", "./", "photos/"])
def test_tar_of_class_folders(tmp_path, above):
    for number, path in enumerate(("cat/10.png", "cat/9.png", "dog/a.png")):
        write(tmp_path / path, number)
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for label in ("dog", "cat"):
            tar.add(tmp_path / label, f"{above}{label}")
    source = open_dataset("", tmp_path / "all.tar")
    assert source.class_names == ["cat", "dog"] and source.labels().tolist() == [0, 0, 1]
    assert_same_images(source, open_dataset("", tmp_path))
    assert_same_images(pickle.loads(pickle.dumps(source)), source)
    assert source.shared(open_dataset("", tmp_path / "all.tar", "test")) == 3


def test_tar_of_tars_as_imagenet_comes(tmp_path):
    for number, path in enumerate(("n1/n1_2.png", "n1/n1_10.png", "n2/n2_1.png")):
        write(tmp_path / path, number)
    with tarfile.open(tmp_path / "all.tar", "w") as outer:
        for label in ("n2", "n1"):
            with tarfile.open(tmp_path / f"{label}.tar", "w") as inner:
                for file in (tmp_path / label).iterdir():
                    inner.add(file, file.name)
            outer.add(tmp_path / f"{label}.tar", f"{label}.tar")
    source = open_dataset("", tmp_path / "all.tar")
    assert source.class_names == ["n1", "n2"]
    for path in tmp_path.glob("n?.tar"):
        path.unlink()
    (tmp_path / "all.tar").rename(tmp_path / "n1" / "all.tar")
    with pytest.raises(OSError):
        source.load(0)
    assert_same_images(open_dataset("", tmp_path / "n1" / "all.tar"), open_dataset("", tmp_path))


def test_other_files_are_refused(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"PK")
    (tmp_path / "broken.tar").write_bytes(b"x" * 3000)
    for name, told in (("images.zip", "expected a folder or a .tar"), ("broken.tar", "broken.tar: ")):
        with refused(told):
            open_dataset("", tmp_path / name)


def test_a_file_name_of_two_lines_makes_a_message_of_one(tmp_path):
    (tmp_path / "two\nlines.png").write_bytes(b"no image")
    source = open_dataset("", tmp_path)
    assert source.name(0).startswith("two lines.png (image 0")
    with refused("two lines.png"):
        next(eval_loader(source, lambda image: image, batch_size=1, workers=0))
