"""CUB, Birdsnap and Places205 in their published layouts, which the tests write, with scanned digits in them."""

import os
import pickle
import shutil
from pathlib import Path

import pytest

from burn_timm.data import open_dataset
from burn_timm.data.published import BIRDSNAP, CUB, PLACES205

from .pictures import refused_set, targets, warned, write


def change(path: Path, old: str | None, new: str) -> None:
    """Replace `old` once in a file, or with None add `new` at its end."""
    text = path.read_text()
    path.write_text(text + new if old is None else text.replace(old, new, 1))


# CUB-200-2011


@pytest.fixture
def cub(tmp_path):
    root = tmp_path / "CUB_200_2011"
    names = ["001.Black_footed_Albatross/a_0001.jpg", "001.Black_footed_Albatross/a_0002.jpg",
             "002.Laysan_Albatross/b_0003.jpg", "003.Sooty_Albatross/c_0004.jpg", "003.Sooty_Albatross/c_0005.jpg"]
    for number, name in enumerate(names):
        write(root / "images" / name, number)
    (root / "images.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names, start=1)))
    (root / "image_class_labels.txt").write_text("1 1\n2 1\n3 2\n4 3\n5 3\n")
    (root / "train_test_split.txt").write_text("1 1\n2 0\n3 1\n4 0\n5 1\n")
    return root


def test_cub_reads_the_published_files(cub, caplog):
    train, test = open_dataset("cub", cub), open_dataset("cub", str(cub.parent), "test")
    assert targets(train) == [0, 1, 2] and targets(test) == [0, 2]
    assert train.num_classes == test.num_classes == 3 and train.labelled and not train.multi_label
    assert train.class_names == ["001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross"]
    assert train.description == "cub CUB_200_2011 [train], 3 images, 3 classes" and train.label_matrix is None
    assert train.name(2).startswith("images/003.Sooty_Albatross/c_0005.jpg (image 2 of cub ")
    image, target = pickle.loads(pickle.dumps(test)).load(1)
    assert image.mode == "RGB" and image.size == (16, 16) and target == 2
    assert warned(caplog) == [
        "cub CUB_200_2011 [train]: 3 images of 3 classes; the published split has 5,994 of 200",
        f"cub {cub.parent.name} [test]: 2 images of 3 classes; the published split has 5,794 of 200",
    ]
    assert sum(CUB.images.values()) == 11788 and CUB.classes == 200


@pytest.mark.parametrize("file", ["images.txt", "image_class_labels.txt", "train_test_split.txt"])
def test_cub_names_the_missing_or_wrong_file(cub, file):
    change(cub / file, None, "nonsense\n")
    refused_set(f"{file}.*expected", "cub", cub)
    (cub / file).write_text("\n")
    refused_set(f"{file} is empty", "cub", cub)
    (cub / file).unlink()
    refused_set(f"no file {file} in .*CUB_200_2011; get the set from https://www.vision.caltech.edu", "cub", cub.parent)


def test_cub_refuses_what_does_not_fit(cub):
    refused_set("no split 'val'; available: train, test", "cub", cub, "val")
    refused_set("do not apply", "cub", cub, "train", "image")
    refused_set("by --data-dir; get it from https", "cub")
    refused_set("no such folder; get cub from https", "cub", cub / "nowhere")
    refused_set("no file images.txt in", "cub", cub / "images")
    (cub / "images/002.Laysan_Albatross/b_0003.jpg").unlink()
    refused_set("1 of 3 listed images are missing.*the first is images/002.Laysan_Albatross/b_0003.jpg", "cub", cub)
    assert len(open_dataset("cub", cub, "test")) == 2
    change(cub / "image_class_labels.txt", "3 2\n4 3", "3 201\n4 3")
    refused_set("image_class_labels.txt, image 3: expected an integer from 1 to 200, found '201'", "cub", cub)
    change(cub / "image_class_labels.txt", "3 201\n4 3", "3 2")
    refused_set(r"image_class_labels.txt: no line for image 4 of images.txt \(003", "cub", cub)


# Birdsnap


@pytest.fixture
def birdsnap(tmp_path):
    root = tmp_path / "birdsnap"
    rows = [("Coopers_Hawk/0561.jpg", 2), ("Coopers_Hawk/0562.jpg", 2), ("Anhinga/113028.jpg", 7),
            ("Anhinga/113029.jpg", 7), ("Anhinga/113030.jpg", 7)]
    for number, (path, _) in enumerate(rows):
        write(root / "images" / path, number)
    (root / "species.txt").write_text(
        "id\tcommon\tscientific\tdir\n2\tCooper's Hawk\tAccipiter cooperii\tCoopers_Hawk\n"
        "7\tAnhinga\tAnhinga anhinga\tAnhinga\n"
    )
    parts = "\tback_x\tback_y"
    (root / "images.txt").write_text(
        f"url\tmd5\tpath\tspecies_id\tbb_x1\tbb_y1\tbb_x2\tbb_y2{parts}\n"
        + "".join(f"http://x.y/{i}.jpg\tabc\t{path}\t{kind}\t1\t2\t3\t4\t\t\n" for i, (path, kind) in enumerate(rows))
    )
    (root / "test_images.txt").write_text("path\nCoopers_Hawk/0561.jpg\nAnhinga/113030.jpg\n")
    return root


def test_birdsnap_reads_the_published_files(birdsnap, caplog):
    train, test = open_dataset("birdsnap", birdsnap.parent), open_dataset("birdsnap", birdsnap, "test")
    assert targets(train) == [0, 1, 1] and targets(test) == [0, 1]
    assert test.class_names == ["Cooper's Hawk", "Anhinga"] and test.num_classes == 2
    assert test.description == "birdsnap birdsnap [test] (2 of 2 listed images are on disk), 2 images, 2 classes"
    assert test.name(1).startswith("images/Anhinga/113030.jpg")
    assert len(warned(caplog)) == 2 and "the published split has 47,386 of 500" in warned(caplog)[0]
    assert sum(BIRDSNAP.images.values()) == 49829 and BIRDSNAP.images["test"] == 2443


def test_birdsnap_leaves_out_images_that_are_gone_and_counts_them(birdsnap, caplog):
    (birdsnap / "images/Anhinga/113028.jpg").unlink()
    (birdsnap / "download").mkdir()
    (birdsnap / "images").rename(birdsnap / "download/images")  # where get_birdsnap.py puts them
    train = open_dataset("birdsnap", birdsnap)
    assert targets(train) == [0, 1] and "(2 of 3 listed images are on disk), 2 images" in train.description
    assert "2 of 3 listed images are on disk" in warned(caplog)[0]
    shutil.rmtree(birdsnap / "download/images/Anhinga")
    shutil.rmtree(birdsnap / "download/images/Coopers_Hawk")
    refused_set(r"0 of 3 listed images are on disk\): no image; get the set from https://thomas", "birdsnap", birdsnap)
    shutil.rmtree(birdsnap / "download")
    refused_set("no folder images in", "birdsnap", birdsnap)


@pytest.mark.parametrize(("file", "old", "new", "told"), [
    ("images.txt", "species_id", "kind", "images.txt: no column species_id in its header"),
    ("images.txt", "jpg\t7\t", "jpg\t501\t", "images.txt: Anhinga/113028.jpg has species 501, not in species.txt"),
    ("images.txt", None, "http://x.y/z.jpg\n", "images.txt, entry 7: 1 columns, 10 expected"),
])
def test_birdsnap_refuses_wrong_files(birdsnap, file, old, new, told):
    change(birdsnap / file, old, new)
    refused_set(told, "birdsnap", birdsnap)


@pytest.mark.parametrize("file", ["images.txt", "test_images.txt", "species.txt"])
def test_birdsnap_names_the_missing_file(birdsnap, file):
    (birdsnap / file).unlink()
    refused_set(f"no file {file} in .*birdsnap; get the set from https://thomasberg.org", "birdsnap", birdsnap.parent)


# Places205


@pytest.fixture
def places(tmp_path):
    folder = tmp_path / "data/vision/torralba/deeplearning/images256"
    rows = [("a/abbey/gsun_1.jpg", 0), ("a/apartment_building/outdoor/gsun_2.jpg", 7), ("y/yard/gsun_3.jpg", 204)]
    for number, (path, _) in enumerate(rows):
        write(folder / path, number)
    lists = tmp_path / "trainvalsplit_places205"
    lists.mkdir()
    (lists / "train_places205.csv").write_text("".join(f"{path} {kind}\n" for path, kind in rows))
    (lists / "val_places205.csv").write_text("y/yard/gsun_3.jpg 204\n")
    return tmp_path


def test_places205_reads_the_published_lists(places, caplog):
    train, val = open_dataset("places205", places), open_dataset("places205", places, "val")
    assert targets(train) == [0, 7, 204] and targets(val) == [204] and train.num_classes == val.num_classes == 205
    assert train.class_names[0] == "abbey" and train.class_names[7] == "apartment_building/outdoor"
    assert train.class_names[204] == "yard" and len(train.class_names) == 205
    assert train.name(0).startswith("a/abbey/gsun_1.jpg") and ", 3 images, 205 classes" in train.description
    assert "the published split has 2,448,873 of 205" in warned(caplog)[0] and PLACES205.images["val"] == 20500
    (places / "data/vision/torralba/deeplearning/images256").rename(places / "images256")
    assert targets(open_dataset("places205", places)) == [0, 7, 204]


def test_places205_looks_for_a_few_images_only(places, monkeypatch):
    names = "".join(f"a/abbey/gsun_{i}.jpg 0\n" for i in range(30_000))
    (places / "trainvalsplit_places205/train_places205.csv").write_text(names)
    looked_for = []
    real = os.path.isfile
    monkeypatch.setattr(os.path, "isfile", lambda path: looked_for.append(Path(path).name) or real(path))
    refused_set("of 64 looked for images are missing from .*images256, the first is a/abbey", "places205", places)
    assert len(looked_for) == 64 and {"gsun_0.jpg", "gsun_29999.jpg"} <= set(looked_for)


@pytest.mark.parametrize(("line", "told"), [
    ("a/abbey/gsun_1.jpg 205\n", "train_places205.csv, a/abbey/gsun_1.jpg: expected an integer from 0 to 204"),
    ("a/abbey/gsun_1.jpg\n", "train_places205.csv, entry 1: expected a name and a class"),
    (None, "no file trainvalsplit_places205/train_places205.csv in .*get the set from http"),
])
def test_places205_refuses_wrong_files(places, line, told):
    file = places / "trainvalsplit_places205/train_places205.csv"
    file.write_text(line) if line else file.unlink()
    refused_set(told, "places205", places)
    shutil.rmtree(places / "data")
    refused_set("no folder data/vision/torralba/deeplearning/images256 or images256", "places205", places, "val")
