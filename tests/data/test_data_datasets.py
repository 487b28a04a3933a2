"""digits and torchvision's datasets through `open_dataset`, and names that mean nothing."""

import hashlib
import os
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn import datasets
from sklearn.datasets import load_digits

from burn_timm import errors
from burn_timm.data import mirror_probability, open_dataset
from burn_timm.data.sources import shown_path

from .pictures import assert_same_images, names, refused, targets, write


def test_digits_split_is_fixed_disjoint_and_balanced():
    train, test = open_dataset("digits"), open_dataset("digits", split="test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.labelled and train.num_classes == 10 and train.class_names == list("0123456789")
    assert not train.streaming and train.description == "digits [train], 1,437 images, 10 classes"
    digits = load_digits()
    pixels = np.rint(digits.images / 16 * 255).astype(np.uint8)
    seen = []
    for source, share in ((train, 0.8), (test, 0.2)):
        for image, target in map(source.load, range(len(source))):
            array = np.asarray(image)
            assert image.mode == "RGB" and array.shape == (8, 8, 3) and (array == array[..., :1]).all()
            seen.append((array[..., 0].tobytes(), target))
        assert (np.abs(np.bincount(targets(source)) - share * np.bincount(digits.target)) <= 1).all()
    # Together, every sample once.
    assert sorted(seen) == sorted(zip((image.tobytes() for image in pixels), digits.target.tolist(), strict=True))
    # Written down once: a test set that moves would make earlier figures incomparable.
    validation = open_dataset("digits", split="validation")
    content = b"".join(validation.load(index)[0].tobytes() for index in range(len(validation)))
    assert hashlib.sha256(content).hexdigest()[:16] == "3245e81cb05b8f07"


def test_digits_in_photos_are_the_same_digits_in_other_places(monkeypatch):
    """Of both photos, training sees the left part (here red) and the test the right one (green), in strong contrast."""
    photo = np.zeros((427, 640, 3), np.uint8)
    photo[:, :448, 0] = np.linspace(0, 255, 427)[:, None]
    photo[:, 448:, 1] = np.linspace(0, 255, 427)[:, None]
    monkeypatch.setattr(datasets, "load_sample_images", lambda: SimpleNamespace(images=[photo]))
    for split, dark in (("train", 1), ("val", 0)):
        source, digits = open_dataset("digits_in_photos", split=split), open_dataset("digits", split=split)
        assert targets(source) == targets(digits) and source.class_names == digits.class_names
        images = [source.load(index)[0] for index in range(len(source))]
        pixels = np.stack(list(map(np.asarray, images))).astype(int)
        assert pixels.shape == (len(digits), 48, 48, 3)
        assert len({image.tobytes() for image in images}) == len(digits)
        frame = pixels[:, [0, 0, -1, -1], [0, -1, 0, -1]]  # the corners, most of which no digit reaches
        assert np.median(np.abs(frame[..., dark] - frame[..., 2])) == 0 < np.median(frame[..., 1 - dark])
        assert (np.ptp(pixels.reshape(len(pixels), -1, 3), 1).max(1) > 90).all()
    again = open_dataset("digits_in_photos", split="val")
    assert all(again.load(index)[0].tobytes() == images[index].tobytes() for index in (0, 77, -1))


@pytest.mark.parametrize("name", ["digits", "Digits", "DIGITS", "digits_in_photos"])
def test_digits_in_any_spelling_are_never_mirrored(name):
    assert name == "digits_in_photos" or len(open_dataset(name)) == 1437
    assert mirror_probability(name) == mirror_probability("torch/MNIST") == 0
    assert mirror_probability("hfds/digits") == 0.5


def idx(array: np.ndarray) -> bytes:
    """The MNIST file format."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(size).to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def test_torchvision_mnist(tmp_path):
    digits = load_digits()
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, chosen in (("train", slice(0, 30)), ("t10k", slice(30, 40))):
        images = np.pad((digits.images[chosen] * 15).astype(np.uint8), ((0, 0), (10, 10), (10, 10)))
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(digits.target[chosen]))
    train, test = open_dataset("torch/mnist", tmp_path), open_dataset("torch/MNIST", tmp_path, split="test")
    assert (len(train), len(test)) == (30, 10) and train.num_classes == 10
    assert train.labels().tolist() == digits.target[:30].tolist() == targets(train)
    image, target = test.load(4)
    assert image.mode == "RGB" and image.size == (28, 28) and target == digits.target[34]
    np.testing.assert_array_equal(np.asarray(image)[10:18, 10:18, 1], digits.images[34] * 15)
    with refused("no split 'foo'"):
        open_dataset("torch/mnist", tmp_path, split="foo")
    with refused("do not apply"):
        open_dataset("torch/mnist", tmp_path, input_key="image")


def test_inaturalist_is_a_set_of_files_in_an_order_of_its_own(tmp_path, monkeypatch):
    """torchvision lists them as the file system does: a copy of the folder would be trained on in another order."""
    kinds = [f"0000{kind}_Animalia_Chordata_Aves_Anseriformes_Anatidae_Anas_{name}" for kind, name in enumerate("ab")]
    for kind, folder in enumerate(kinds):
        for number in range(3):
            write(tmp_path / "2021_train" / folder / f"{number}.png", 10 * kind + number)
    listed, found = os.listdir, []
    for turn in (sorted, lambda files: sorted(files, reverse=True)):
        monkeypatch.setattr(os, "listdir", lambda folder, turn=turn: turn(listed(folder)))
        found.append(open_dataset("torch/inat", tmp_path))
    assert names(found[0]) == names(found[1]) == [f"{folder}/{number}.png" for folder in kinds for number in range(3)]
    assert_same_images(*found)
    assert targets(found[0]) == [0, 0, 0, 1, 1, 1] and found[0].class_names == kinds
    before = found[0].listing_hash()
    write(tmp_path / "2021_train" / kinds[0] / "1.png", 99, size=20)
    assert before != found[0].listing_hash()  # which a resumed run looks at
    with refused("no split 'family/train'; the classes are those of its folders"):
        open_dataset("torch/inat", tmp_path, "family/train")


@pytest.mark.parametrize(
    ("name", "data_dir", "split", "told"),
    [
        ("cifar10", None, "train", "unknown; choose from digits"),
        ("cifar10", "HERE", "train", "unknown; choose from"),
        ("", None, "train", "--data-dir"),
        ("folder", "HERE/nowhere", "train", "no such folder"),
        ("folder", "HERE/all.tar", "train", "no such folder; unpack archives"),
        ("folder", "HERE", "train", "0 images"),
        ("torch/nothing", "HERE", "train", "Unknown torchvision dataset"),
        ("torch/cifar10", "HERE", "train", "torch/cifar10"),
        ("torch/mnist", None, "train", "--data-dir"),
        ("torch/", "HERE", "train", "unknown"),
        ("hfds/HERE/nowhere", None, "train", "no such folder"),
        ("hfds/", None, "train", "unknown"),
        ("digits", "HERE", "train", "inside scikit-learn; leave it or --data-dir .* out"),
        ("digits", None, "dev", "no split 'dev'; available: train, test"),
        ("$NO_SUCH_VARIABLE/x", None, "train", "NO_SUCH_VARIABLE is not set"),
        ("folder", "${NO_SUCH_VARIABLE}/x", "train", "NO_SUCH_VARIABLE is not set"),
    ],
)
def test_bad_names_are_one_line(name, data_dir, split, told, tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    (tmp_path / "all.tar").write_bytes(b"")
    with refused(told):
        open_dataset(name.replace("HERE", str(tmp_path)), data_dir and data_dir.replace("HERE", str(tmp_path)), split)


@pytest.mark.parametrize(("name", "package"), [("hfds/x/y", "datasets"), ("wds/x", "webdataset")])
def test_missing_packages_are_one_line(name, package, monkeypatch, tmp_path):
    monkeypatch.setattr(errors.importlib.util, "find_spec", lambda wanted: None)
    with refused(f"needs the package {package}: pip install"):
        open_dataset(name, tmp_path)


def test_variables_are_expanded_and_come_back(tmp_path, monkeypatch):
    write(tmp_path / "photos" / "a.png")
    monkeypatch.setenv("BURN_DATA", str(tmp_path))
    for name, data_dir in (("folder", "$BURN_DATA/photos"), ("${BURN_DATA}/photos", None)):
        assert open_dataset(name, data_dir).description == "folder $BURN_DATA/photos [train], 1 images, unlabelled"
    assert shown_path(str(tmp_path)) == "$BURN_DATA" and shown_path(str(tmp_path) + "2/a") == "a"
    monkeypatch.delenv("BURN_DATA")
    assert shown_path(str(tmp_path / "photos")) == "photos"
