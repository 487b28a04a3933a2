"""VOC2007 in its published layout: written by the tests, and with its real lists."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from burn_timm.data import eval_loader, make_view, open_dataset, random_subset
from burn_timm.data.voc import VOC07, read_lists

from .pictures import refused_set, warned, write

CLASSES = "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person".split()
CLASSES += "pottedplant sheep sofa train tvmonitor".split()


@pytest.fixture
def voc(tmp_path):
    """Four images: a person; a difficult person and a car; a car and a dog; nothing."""
    root = tmp_path / "VOCdevkit" / "VOC2007"
    for number in range(4):
        write(root / "JPEGImages" / f"{number + 1:06d}.jpg", number)
    shown = {"person": (1, 0, -1, -1), "car": (-1, 1, 1, -1), "dog": (-1, -1, 1, -1)}
    lists = root / "ImageSets/Main"
    lists.mkdir(parents=True)
    for kind in CLASSES:
        marks = shown.get(kind, (-1,) * 4)
        for split, chosen in (("train", (0,)), ("val", (1, 3)), ("trainval", (0, 1, 3)), ("test", (2, 3))):
            (lists / f"{kind}_{split}.txt").write_text("".join(f"{i + 1:06d} {marks[i]:2d}\n" for i in chosen))
    return root


@pytest.mark.parametrize("above", [0, 1, 2])
def test_voc07_has_a_matrix_of_labels(voc, above, caplog):
    folder = voc if above == 0 else voc.parents[above - 1]
    source = open_dataset("voc07", folder, "trainval")
    assert len(source) == 3 and source.multi_label and not source.labelled and source.num_classes == 20
    assert source.class_names == CLASSES
    assert source.description == f"voc07 {folder.name} [trainval], 3 images, 20 classes, multi-label"
    expected = np.full((3, 20), -1)
    expected[0, CLASSES.index("person")], expected[1, CLASSES.index("person")] = 1, 0
    expected[1, CLASSES.index("car")] = 1
    assert source.label_matrix.dtype == np.int8
    np.testing.assert_array_equal(source.label_matrix, expected)
    assert [len(open_dataset("voc07", folder, split)) for split in ("train", "val", "test")] == [1, 2, 2]
    assert "the published split has 5,011 of 20" in warned(caplog)[0]
    assert VOC07.images == {"train": 2501, "val": 2510, "trainval": 5011, "test": 4952}


def test_rows_of_labels_stay_with_their_images(voc):
    """Where one cannot be read, in a subset, and in a copy: the target of an image is its row of the matrix."""
    for kind in CLASSES:  # 1 % may be corrupt
        rows = [f"{i:06d} {1 if kind == 'car' and i % 2 else -1}" for i in range(1, 101)]
        (voc / "ImageSets/Main" / f"{kind}_test.txt").write_text("\n".join(rows))
    for i in range(5, 101):
        os.link(voc / "JPEGImages/000001.jpg", voc / f"JPEGImages/{i:06d}.jpg")
    (voc / "JPEGImages/000007.jpg").unlink()
    (voc / "JPEGImages/000007.jpg").write_bytes(b"no image")
    source = open_dataset("voc07", voc, "test")
    copy = pickle.loads(pickle.dumps(source))
    rows = [row for _, rows in eval_loader(copy, make_view("none", 8), batch_size=16) for row in rows.tolist()]
    assert rows == [i for i in range(100) if i != 6]
    cars = copy.label_matrix[rows, CLASSES.index("car")]
    np.testing.assert_array_equal(cars, [1 if i % 2 == 0 else -1 for i in rows])
    subset = random_subset(source, 20, seed=3)
    assert subset.multi_label and not subset.labelled
    by_name = {source.name(i).split()[0]: source.label_matrix[i] for i in range(100)}
    for index in range(20):
        np.testing.assert_array_equal(subset.label_matrix[index], by_name[subset.name(index).split()[0]])


@pytest.mark.parametrize(("split", "file", "content", "told"), [
    ("val", "dog_val.txt", "000002 -1\n000004  2\n", "dog_val.txt, 000004: expected an integer from -1 to 1"),
    ("val", "dog_val.txt", "000002 -1\n", "dog_val.txt: lists other images than aeroplane_val.txt"),
    ("val", "dog_val.txt", None, "no file ImageSets/Main/dog_val.txt in .*VOC2007; get the set from http://host"),
    ("test", "../../JPEGImages/000003.jpg", None,
     "1 of 2 listed images are missing from .*the first is JPEGImages/000003.jpg"),
    ("validation", "dog_val.txt", "", "no split 'validation'; available: train, val, trainval, test"),
])
def test_voc07_refuses_wrong_files(voc, split, file, content, told):
    path = voc / "ImageSets/Main" / file
    path.unlink() if content is None else path.write_text(content)
    refused_set(told, "voc07", voc.parents[1], split)


def test_voc07_of_the_real_lists(burn_data, tmp_path, caplog):
    """Every image, with the published counts: no warning. Counts of each class by a search in the lists' text."""
    with zipfile.ZipFile(Path(burn_data) / "lists/voc2007_imagesets_main.zip") as archive:
        archive.extractall(tmp_path)
    root = tmp_path / "VOCdevkit/VOC2007"
    for split, count in (("train", 2501), ("val", 2510), ("trainval", 5011), ("test", 4952)):
        names, labels = read_lists(str(root), split)
        assert names == (root / f"ImageSets/Main/{split}.txt").read_text().split() and labels.shape == (count, 20)
        for column, kind in enumerate(CLASSES):
            words = (root / f"ImageSets/Main/{kind}_{split}.txt").read_text().split()[1::2]
            for mark in (1, 0, -1):
                assert (labels[:, column] == mark).sum() == words.count(str(mark))
    found = (labels == 1).sum(0)[CLASSES.index("person")], (labels == 0).sum(0)[CLASSES.index("person")]
    assert found == (2007, 90)  # test, as counted with awk
    first = root / "JPEGImages" / f"{names[0]}.jpg"
    write(first, 0)
    for name in names[1:]:
        os.link(first, first.with_name(f"{name}.jpg"))
    source = open_dataset("voc07", tmp_path, "test")
    assert len(source) == 4952 and warned(caplog) == []
    assert source.description == f"voc07 {tmp_path.name} [test], 4,952 images, 20 classes, multi-label"
