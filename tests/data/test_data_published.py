"""CUB, Birdsnap, Places205 and VOC2007 in their published layouts, which the tests write (with scanned digits in them);
VOC also with its real lists and real photos."""

import logging
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from burn_timm.data import eval_loader, open_dataset, random_subset
from burn_timm.data.published import BIRDSNAP, CUB, PLACES205
from burn_timm.data.voc import VOC07, read_lists

from .pictures import refused, targets
from .pictures import write as write_digit

CLASSES = "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person".split()
CLASSES += "pottedplant sheep sofa train tvmonitor".split()


def refused_set(told: str, *args) -> None:
    with refused(told):
        open_dataset(*args)


def change(path: Path, old: str | None, new: str) -> None:
    """Replace `old` once in a file, or with None add `new` at its end."""
    text = path.read_text()
    path.write_text(text + new if old is None else text.replace(old, new, 1))


def warned(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def write(path: Path, number: int) -> None:
    write_digit(path, number, size=24)


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
    assert image.mode == "RGB" and image.size == (24, 24) and target == 2
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


# VOC2007


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


def test_the_target_of_a_multi_label_image_is_its_row(voc):
    source = open_dataset("voc07", voc, "trainval")
    assert targets(source) == [0, 1, 2]
    copy = pickle.loads(pickle.dumps(source))
    assert copy.multi_label and (copy.label_matrix == source.label_matrix).all() and targets(copy) == [0, 1, 2]
    subset = random_subset(source, 2, seed=3)
    assert subset.multi_label and not subset.labelled and targets(subset) == [0, 1]  # rows of its own matrix
    by_name = {source.name(i).split()[0]: source.label_matrix[i] for i in range(3)}
    for index in range(2):
        np.testing.assert_array_equal(subset.label_matrix[index], by_name[subset.name(index).split()[0]])


def test_labels_stay_with_their_images_where_one_cannot_be_read(voc):
    lists = voc / "ImageSets/Main"
    for kind in CLASSES:  # 1 % may be corrupt
        mark = {"person": "1", "car": "-1"}.get(kind, "-1")
        rows = [f"{i:06d} {'1' if kind == 'car' and i % 2 else mark}" for i in range(1, 101)]
        (lists / f"{kind}_test.txt").write_text("\n".join(rows))
    for i in range(5, 101):
        os.link(voc / "JPEGImages/000001.jpg", voc / f"JPEGImages/{i:06d}.jpg")
    (voc / "JPEGImages/000007.jpg").unlink()
    (voc / "JPEGImages/000007.jpg").write_bytes(b"no image")
    source = open_dataset("voc07", voc, "test")

    def pixels(image):
        return torch.from_numpy(np.array(image))

    rows = torch.cat([rows for _, rows in eval_loader(source, pixels, batch_size=16)])
    assert rows.tolist() == [i for i in range(100) if i != 6]
    labels = source.label_matrix[rows]
    np.testing.assert_array_equal(labels[:, CLASSES.index("car")], [1 if i % 2 == 0 else -1 for i in rows.tolist()])


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


def test_voc07_of_real_photos(burn_data, tmp_path, caplog):
    with zipfile.ZipFile(Path(burn_data) / "detection/coco128_voc.zip") as archive:
        archive.extractall(tmp_path)
    sources = {split: open_dataset("voc07", tmp_path, split) for split in ("train", "val", "trainval", "test")}
    assert [len(source) for source in sources.values()] == [48, 24, 72, 25] and len(warned(caplog)) == 4
    test = sources["test"]
    main = tmp_path / "VOCdevkit/VOC2007"
    names = (main / "ImageSets/Main/test.txt").read_text().split()
    for index, name in enumerate(names):
        boxes = (main / f"Annotations/{name}.xml").read_text()
        shown = {kind for kind in CLASSES if f"<name>{kind}</name>" in boxes}
        assert {kind for kind, mark in zip(CLASSES, test.label_matrix[index], strict=True) if mark == 1} == shown
        image, row = test.load(index)
        assert row == index and image.mode == "RGB" and image.size == Image.open(main / f"JPEGImages/{name}.jpg").size
