"""CUB, Birdsnap and Places205 in their published layouts, which the tests write, with scanned digits in them."""

import os
import pickle
import shutil
from pathlib import Path

import pytest

from burn_timm.data import open_dataset
from burn_timm.data.published import BIRDSNAP, CUB, PLACES205

from .pictures import refused_set, targets, warned, write


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


URLS = {"cub": "https://www.vision.caltech.edu", "birdsnap": "https://thomasberg.org", "places205": "http"}
SPLITS, LABELS = "train_test_split.txt", "image_class_labels.txt"
PLACES = "trainvalsplit_places205/train_places205.csv"


@pytest.fixture
def roots(cub, birdsnap, places):
    return {"cub": cub, "birdsnap": birdsnap, "places205": places}


@pytest.mark.parametrize(("name", "file"), [
    *(("cub", file) for file in ("images.txt", LABELS, SPLITS)),
    *(("birdsnap", file) for file in ("images.txt", "test_images.txt", "species.txt")), ("places205", PLACES),
])
def test_a_missing_file_is_named(roots, name, file):
    (roots[name] / file).unlink()
    above = roots[name] if name == "places205" else roots[name].parent
    refused_set(f"no file {file} in .*; get the set from {URLS[name]}", name, above)


@pytest.mark.parametrize(("name", "file", "old", "new", "told"), [
    *(("cub", file, None, "nonsense\n", f"{file}.*expected") for file in ("images.txt", LABELS, SPLITS)),
    *(("cub", file, "", "\n", f"{file} is empty") for file in ("images.txt", LABELS, SPLITS)),
    ("cub", LABELS, "3 2\n4 3", "3 201\n4 3", f"{LABELS}, image 3: expected an integer from 1 to 200, found '201'"),
    ("cub", LABELS, "4 3\n", "", rf"{LABELS}: no line for image 4 of images.txt \(003"),
    ("birdsnap", "images.txt", "species_id", "kind", "images.txt: no column species_id in its header"),
    ("birdsnap", "images.txt", "jpg\t7\t", "jpg\t501\t",
     "images.txt: Anhinga/113028.jpg has species 501, not in species.txt"),
    ("birdsnap", "images.txt", None, "http://x.y/z.jpg\n", "images.txt, entry 7: 1 columns, 10 expected"),
    ("places205", PLACES, "", "a/abbey/gsun_1.jpg 205\n", "gsun_1.jpg: expected an integer from 0 to 204"),
    ("places205", PLACES, "", "a/abbey/gsun_1.jpg\n", "train_places205.csv, entry 1: expected a name and a class"),
])
def test_a_wrong_file_is_one_line(roots, name, file, old, new, told):
    """`new` in place of `old`, of everything where that is empty, or at the end."""
    path = roots[name] / file
    text = path.read_text()
    path.write_text(text + new if old is None else text.replace(old, new, 1) if old else new)
    refused_set(told, name, roots[name])


@pytest.mark.parametrize(("arguments", "told"), [
    (("{}", "val"), "no split 'val'; available: train, test"),
    (("{}", "train", "image"), "do not apply"),
    ((), "by --data-dir; get it from https"),
    (("{}/nowhere",), "no such folder; get cub from https"),
    (("{}/images",), "no file images.txt in"),
])
def test_what_a_set_cannot_be_asked_for(cub, arguments, told):
    refused_set(told, "cub", *(word.format(cub) for word in arguments))


def test_missing_images(cub, places, monkeypatch):
    (cub / "images/002.Laysan_Albatross/b_0003.jpg").unlink()
    refused_set("1 of 3 listed images are missing.*the first is images/002.Laysan_Albatross/b_0003.jpg", "cub", cub)
    assert len(open_dataset("cub", cub, "test")) == 2
    (places / PLACES).write_text("".join(f"a/abbey/gsun_{i}.jpg 0\n" for i in range(30_000)))
    looked_for, real = [], os.path.isfile
    monkeypatch.setattr(os.path, "isfile", lambda path: looked_for.append(Path(path).name) or real(path))
    refused_set("of 64 looked for images are missing from .*images256, the first is a/abbey", "places205", places)
    assert len(looked_for) == 64 and {"gsun_0.jpg", "gsun_29999.jpg"} <= set(looked_for)
    shutil.rmtree(places / "data")
    refused_set("no folder data/vision/torralba/deeplearning/images256 or images256", "places205", places, "val")
