"""CUB, Birdsnap, Places205 and VOC2007 in their published layouts: written by the tests, with scanned digits."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from burn_timm.data import eval_loader, make_view, open_dataset, random_subset
from burn_timm.data.published import PUBLISHED, VOC_CLASSES

from .pictures import refused_set, targets, warned, write

BIRDS = ["001.Albatross/1.jpg", "001.Albatross/2.jpg", "002.Auk/3.jpg", "003.Owl/4.jpg", "003.Owl/5.jpg"]
HAWKS = [("Hawk/61.jpg", 2), ("Hawk/62.jpg", 2), ("Anhinga/28.jpg", 7), ("Anhinga/29.jpg", 7), ("Anhinga/30.jpg", 7)]
SCENES = [("a/abbey/1.jpg", 0), ("a/apartment_building/outdoor/2.jpg", 7), ("y/yard/3.jpg", 204)]
SHOWN = {"person": (1, 0, -1, -1), "car": (-1, 1, 1, -1), "dog": (-1, -1, 1, -1)}  # in the four images of VOC2007
SPLITS, LABELS = "train_test_split.txt", "image_class_labels.txt"
PLACES, LISTS = "trainvalsplit_places205/train_places205.csv", "ImageSets/Main"


def write_cub(root: Path) -> list[str]:
    (root / "images.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(BIRDS, start=1)))
    (root / LABELS).write_text("1 1\n2 1\n3 2\n4 3\n5 3\n")
    (root / SPLITS).write_text("1 1\n2 0\n3 1\n4 0\n5 1\n")
    return [f"images/{name}" for name in BIRDS]


def write_birdsnap(root: Path) -> list[str]:
    (root / "species.txt").write_text("id\tcommon\tdir\n2\tCooper's Hawk\tHawk\n7\tAnhinga\tAnhinga\n")
    rows = "".join(f"http://x.y/{i}.jpg\t{path}\t{kind}\t1\t\t\n" for i, (path, kind) in enumerate(HAWKS))
    (root / "images.txt").write_text(f"url\tpath\tspecies_id\tbb_x1\tback_x\tback_y\n{rows}")
    (root / "test_images.txt").write_text("path\nHawk/61.jpg\nAnhinga/30.jpg\n")
    return [f"images/{path}" for path, _ in HAWKS]


def write_places205(root: Path) -> list[str]:
    (root / PLACES).parent.mkdir()
    (root / PLACES).write_text("".join(f"{path} {kind}\n" for path, kind in SCENES))
    (root / PLACES.replace("train_", "val_")).write_text("y/yard/3.jpg 204\n")
    return [f"data/vision/torralba/deeplearning/images256/{path}" for path, _ in SCENES]


def write_voc07(root: Path) -> list[str]:
    """Four images: a person; a difficult person and a car; a car and a dog; nothing."""
    (root / LISTS).mkdir(parents=True)
    for kind in VOC_CLASSES:
        marks = SHOWN.get(kind, (-1,) * 4)
        for split, chosen in (("train", (0,)), ("val", (1, 3)), ("trainval", (0, 1, 3)), ("test", (2, 3))):
            lines = "".join(f"{i + 1:06d} {marks[i]:2d}\n" for i in chosen)
            (root / LISTS / f"{kind}_{split}.txt").write_text(lines)
    return [f"JPEGImages/{i + 1:06d}.jpg" for i in range(4)]


@pytest.fixture
def roots(tmp_path) -> dict[str, Path]:
    """The folder of each set."""
    folders = {"cub": "CUB_200_2011", "birdsnap": "birdsnap", "places205": "places", "voc07": "VOCdevkit/VOC2007"}
    for name, folder in folders.items():
        (tmp_path / folder).mkdir(parents=True)
        for number, path in enumerate(globals()[f"write_{name}"](tmp_path / folder)):
            write(tmp_path / folder / path, number)
    return {name: tmp_path / folder for name, folder in folders.items()}


@pytest.mark.parametrize(("name", "split", "classes", "names", "told"), [
    ("cub", "train", [0, 1, 2], {0: "001.Albatross", 1: "002.Auk", 2: "003.Owl"}, "5,994 of 200"),
    ("cub", "test", [0, 2], {2: "003.Owl"}, "5,794 of 200"),
    ("birdsnap", "train", [0, 1, 1], {0: "Cooper's Hawk", 1: "Anhinga"}, "47,386 of 500"),
    ("birdsnap", "test", [0, 1], {}, "2,443 of 500"),
    ("places205", "train", [0, 7, 204], {0: "abbey", 7: "apartment_building/outdoor", 204: "yard"}, "2,448,873 of 205"),
    ("places205", "val", [204], {204: "yard"}, "20,500 of 205"),
])
def test_the_published_files_are_read(roots, name, split, classes, names, told, caplog):
    source = open_dataset(name, roots[name], split)
    assert targets(source) == classes and source.labelled and not source.multi_label and source.label_matrix is None
    assert {number: source.class_names[number] for number in names} == names
    assert source.num_classes == len(source.class_names) == {"cub": 3, "birdsnap": 2, "places205": 205}[name]
    (warning,) = warned(caplog)
    assert f"{len(classes)} images of {source.num_classes} classes; the published split has {told}" in warning
    assert source.description.startswith(f"{name} {roots[name].name} [{split}]")
    above = open_dataset(name, roots[name].parent if name != "places205" else roots[name], split)
    image, target = pickle.loads(pickle.dumps(above)).load(len(classes) - 1)
    assert image.mode == "RGB" and image.size == (16, 16) and target == classes[-1]


@pytest.mark.parametrize("above", [0, 1, 2])
def test_voc07_has_a_matrix_of_labels(roots, above):
    folder = [roots["voc07"], *roots["voc07"].parents][above]
    source = open_dataset("voc07", folder, "trainval")
    assert source.multi_label and not source.labelled and source.class_names == list(VOC_CLASSES)
    assert source.description == f"voc07 {folder.name} [trainval], 3 images, 20 classes, multi-label"
    expected = np.array([SHOWN.get(kind, (-1,) * 4) for kind in VOC_CLASSES]).T[[0, 1, 3]]
    assert source.label_matrix.dtype == np.int8
    np.testing.assert_array_equal(source.label_matrix, expected)
    assert [len(open_dataset("voc07", folder, split)) for split in ("train", "val", "test")] == [1, 2, 2]


def test_rows_of_labels_stay_with_their_images(roots):
    """Where one cannot be read, in a subset, and in a copy: the target of an image is its row of the matrix."""
    voc = roots["voc07"]
    for kind in VOC_CLASSES:  # 1 % may be corrupt
        rows = [f"{i:06d} {1 if kind == 'car' and i % 2 else -1}" for i in range(1, 101)]
        (voc / LISTS / f"{kind}_test.txt").write_text("\n".join(rows))
    for i in range(5, 101):
        os.link(voc / "JPEGImages/000001.jpg", voc / f"JPEGImages/{i:06d}.jpg")
    (voc / "JPEGImages/000007.jpg").unlink()
    (voc / "JPEGImages/000007.jpg").write_bytes(b"no image")
    source = open_dataset("voc07", voc, "test")
    copy = pickle.loads(pickle.dumps(source))
    rows = [row for _, rows in eval_loader(copy, make_view("none", 8), batch_size=16) for row in rows.tolist()]
    assert rows == [i for i in range(100) if i != 6]
    cars = copy.label_matrix[rows, VOC_CLASSES.index("car")]
    np.testing.assert_array_equal(cars, [1 if i % 2 == 0 else -1 for i in rows])
    subset = random_subset(source, 20, seed=3)
    assert subset.multi_label and not subset.labelled
    by_name = {source.file_name(i): source.label_matrix[i] for i in range(100)}
    for index in range(20):
        np.testing.assert_array_equal(subset.label_matrix[index], by_name[subset.file_name(index)])


def test_voc07_of_the_real_lists(burn_data, tmp_path, caplog):
    """Every image, with the published counts: no warning. Counts of each class by a search in the lists' text."""
    with zipfile.ZipFile(Path(burn_data) / "lists/voc2007_imagesets_main.zip") as archive:
        archive.extractall(tmp_path)
    root = tmp_path / "VOCdevkit/VOC2007"
    first = root / "JPEGImages/000000.jpg"
    write(first, 0)
    for split in PUBLISHED["voc07"].images:
        names = (root / LISTS / f"{split}.txt").read_text().split()
        for name in names:
            if not (root / "JPEGImages" / f"{name}.jpg").exists():
                os.link(first, root / "JPEGImages" / f"{name}.jpg")
        source = open_dataset("voc07", tmp_path, split)
        assert [source.file_name(i)[11:-4] for i in range(len(source))] == names and warned(caplog) == []
        for column, kind in enumerate(VOC_CLASSES):
            words = (root / LISTS / f"{kind}_{split}.txt").read_text().split()[1::2]
            for mark in (1, 0, -1):
                assert (source.label_matrix[:, column] == mark).sum() == words.count(str(mark))
    found = [int((source.label_matrix[:, VOC_CLASSES.index("person")] == mark).sum()) for mark in (1, 0)]
    assert found == [2007, 90]  # test, as counted with awk


def test_birdsnap_leaves_out_images_that_are_gone_and_counts_them(roots):
    root = roots["birdsnap"]
    (root / "images/Anhinga/28.jpg").unlink()
    (root / "download").mkdir()
    (root / "images").rename(root / "download/images")  # where get_birdsnap.py puts them
    train = open_dataset("birdsnap", root)
    assert targets(train) == [0, 1] and "(2 of 3 listed images are on disk), 2 images" in train.description
    for folder in ("Anhinga", "Hawk"):
        shutil.rmtree(root / "download/images" / folder)
    refused_set(r"0 of 3 listed images are on disk\): no image; get the set from https://thomas", "birdsnap", root)
    shutil.rmtree(root / "download")
    refused_set("no folder images in", "birdsnap", root)


def test_missing_images(roots, monkeypatch):
    (roots["cub"] / "images/002.Auk/3.jpg").unlink()
    refused_set("images/002.Auk/3.jpg is missing from ", "cub", roots["cub"])
    assert len(open_dataset("cub", roots["cub"], "test")) == 2
    (roots["places205"] / PLACES).write_text("".join(f"a/abbey/{i}.jpg 0\n" for i in range(30_000)))
    looked_for = []
    monkeypatch.setattr(os.path, "isfile", lambda path: not looked_for.append(Path(path).name))
    assert len(open_dataset("places205", roots["places205"])) == 30_000
    assert len(set(looked_for)) == 64 and {"0.jpg", "29999.jpg"} <= set(looked_for)  # not all of so many
    shutil.rmtree(roots["places205"] / "data")
    refused_set("no folder data/vision/torralba/deeplearning/images256 or images256", "places205", roots["places205"])


DOG = f"{LISTS}/dog_train.txt"


@pytest.mark.parametrize(("name", "file", "old", "new", "told"), [
    *((name, file, None, None, f"no file {file} in .*; get the set from http") for name, file in (
        ("cub", "images.txt"), ("cub", LABELS), ("cub", SPLITS), ("birdsnap", "images.txt"),
        ("birdsnap", "test_images.txt"), ("birdsnap", "species.txt"), ("places205", PLACES), ("voc07", DOG),
    )),
    *(("cub", file, None, "nonsense\n", f"{file}, entry 6: 1 words, 2 expected") for file in ("images.txt", LABELS)),
    ("cub", SPLITS, "", "\n", f"{SPLITS} is empty"),
    ("cub", LABELS, "3 2\n4 3", "3 201\n4 3", f"{LABELS}, image 3: expected an integer from 1 to 200, found '201'"),
    ("cub", LABELS, "4 3\n", "", rf"{LABELS}: no line for image 4 of images.txt \(003"),
    ("birdsnap", "images.txt", "species_id", "kind", "images.txt: no column species_id in its header"),
    ("birdsnap", "images.txt", "jpg\t7\t", "jpg\t501\t", "images.txt: Anhinga/28.jpg has species 501, not in species"),
    ("birdsnap", "images.txt", None, "http://x.y/z.jpg\n", "images.txt, entry 7: 1 words, 6 expected"),
    ("places205", PLACES, "", "a/abbey/1.jpg 205\n", "1.jpg: expected an integer from 0 to 204"),
    ("places205", PLACES, "", "a/abbey/1.jpg\n", "train_places205.csv, entry 1: 1 words, 2 expected"),
    ("voc07", DOG, "-1", "2", "dog_train.txt, 000001: expected an integer from -1 to 1"),
    ("voc07", DOG, "", "000004 -1\n", "dog_train.txt: lists other images than aeroplane_train.txt"),
])
def test_a_wrong_file_is_one_line(roots, name, file, old, new, told):
    """`new` in place of `old`, of everything where that is empty, or at the end; no file."""
    path = roots[name] / file
    text = path.read_text()
    if new is None:
        path.unlink()
    else:
        path.write_text(text + new if old is None else text.replace(old, new, 1) if old else new)
    refused_set(told, name, roots[name])


@pytest.mark.parametrize(("arguments", "told"), [
    (("{}", "val"), "no split 'val'; available: train, test"),
    (("{}", "train", "image"), "do not apply"),
    ((), "by --data-dir; get the set from https"),
    (("{}/nowhere",), "no such folder; get the set from https"),
    (("{}/images",), "no file images.txt in|no file image_class_labels.txt in"),
])
def test_what_a_set_cannot_be_asked_for(roots, arguments, told):
    refused_set(told, "cub", *(word.format(roots["cub"]) for word in arguments))
