"""`hfds/`: local parquet folders, with columns found or named; and the real sets where BURN_DATA points to them."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from burn_timm.data import eval_loader, make_view, open_dataset

from .pictures import png as png_of
from .pictures import refused, train_loader

datasets = pytest.importorskip("datasets")
pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
needs_data = pytest.mark.skipif("BURN_DATA" not in os.environ, reason="BURN_DATA is not set")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> str:
    """Arrow files go here, not into the user's cache."""
    return str(tmp_path_factory.mktemp("hfds"))


def parquet(folder: Path, columns: dict, features: dict, split: str = "train") -> None:
    folder.mkdir(exist_ok=True)
    data = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    data.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def png(number: int) -> dict:
    return {"bytes": png_of(number), "path": f"{number}.png"}


PICTURES = [png(number) for number in range(8)]
LABELS = [0, 1, 2, 0, 1, 2, 0, 1]
CLASSES = datasets.ClassLabel(names=["a", "b", "c"])
INTEGER = datasets.Value("int64")
TEXT = datasets.Value("string")
PICTURE = datasets.Image()


def test_columns_are_found(tmp_path, cache):
    found = {
        "plain": ({"image": PICTURE, "label": CLASSES}, ["a", "b", "c"]),
        "renamed": ({"img": PICTURE, "kind": CLASSES, "row": INTEGER}, ["a", "b", "c"]),
        "integers": ({"photo": PICTURE, "digit": INTEGER, "text": TEXT}, None),
    }
    for name, (features, names) in found.items():
        columns = {"photo": PICTURES, "img": PICTURES, "image": PICTURES, "text": ["x"] * 8, "row": list(range(8))}
        parquet(tmp_path / name, {key: columns.get(key, LABELS) for key in features}, features)
        source = open_dataset(f"hfds/{tmp_path / name}", cache)
        assert (len(source), source.num_classes, source.class_names) == (8, 3, names)
        assert [source.load(index)[1] for index in range(8)] == LABELS
        np.testing.assert_array_equal(np.asarray(source.load(5)[0])[..., 2], load_digits().images[5] * 15)
        assert source.description == f"hfds/{name} [train], 8 images, 3 classes"
        assert source.name(5).startswith("5.png")


def test_unlabelled(tmp_path, cache):
    parquet(tmp_path / "pile", {"photo": PICTURES, "text": ["x"] * 8}, {"photo": PICTURE, "text": TEXT})
    parquet(tmp_path / "hidden", {"image": PICTURES, "label": [-1] * 8}, {"image": PICTURE, "label": CLASSES})
    parquet(tmp_path / "known", {"image": PICTURES, "label": LABELS}, {"image": PICTURE, "label": CLASSES})
    for name, key in (("pile", None), ("hidden", None), ("known", "")):
        source = open_dataset(f"hfds/{tmp_path / name}", cache, target_key=key)
        assert not source.labelled and source.num_classes is None and source.class_names is None
        assert source.load(3)[1] == -1 and source.load(3)[0].mode == "RGB"


def test_labels_that_are_missing_or_out_of_range(tmp_path, cache):
    features = {"image": PICTURE, "label": INTEGER}
    parquet(tmp_path / "partly", {"image": PICTURES, "label": [0, -1, 2, None, 1, 2, 0, 1]}, features)
    source = open_dataset(f"hfds/{tmp_path / 'partly'}", cache)
    assert not source.labelled and [source.load(index)[1] for index in range(4)] == [0, -1, 2, -1]
    with refused("2 of 8 images"):
        source.labels()
    features["label"] = datasets.ClassLabel(names=list("abcd"))
    table = datasets.Dataset.from_dict({"image": PICTURES, "label": [0, 1, 2, 3] * 2}, datasets.Features(features))
    (tmp_path / "far").mkdir()
    table = table.to_parquet(tmp_path / "far" / "train.parquet") and pq.read_table(tmp_path / "far" / "train.parquet")
    label = pa.array([0, 1, 99, 3, 0, 1, 2, 3])
    pq.write_table(table.set_column(1, "label", label), tmp_path / "far" / "train.parquet")
    with refused(r"2.png .image 2 of hfds/far .train.*class 99, expected 0 to 3.*--target-key ''"):
        open_dataset(f"hfds/{tmp_path / 'far'}", cache)
    assert not open_dataset(f"hfds/{tmp_path / 'far'}", cache, target_key="").labelled


def test_choices_that_are_not_unique_need_a_name(tmp_path, cache):
    features = {"left": PICTURE, "right": PICTURE, "fine": CLASSES, "coarse": CLASSES}
    columns = {"left": PICTURES, "right": PICTURES[::-1], "fine": LABELS, "coarse": LABELS[::-1]}
    parquet(tmp_path / "pairs", columns, features)
    name = f"hfds/{tmp_path / 'pairs'}"
    source = open_dataset(name, cache, input_key="right", target_key="coarse")
    assert [source.load(index)[1] for index in range(8)] == LABELS[::-1] and source.name(0).startswith("7.png")
    for keys, told in [
        ({}, "2 image columns.*left, right, fine, coarse"),
        ({"input_key": "left"}, "several columns.*fine, coarse"),
        ({"input_key": "middle"}, "--input-key middle: no such column.*left, right, fine, coarse"),
        ({"input_key": "left", "target_key": "other"}, "--target-key other: no such column.*fine"),
        ({"input_key": "left", "target_key": "right"}, "--target-key right: not a class.*fine"),
    ]:
        with refused(told):
            open_dataset(name, cache, **keys)
    parquet(tmp_path / "words", {"text": ["x"]}, {"text": TEXT})
    with refused("no image column.*text"):
        open_dataset(f"hfds/{tmp_path / 'words'}", cache)


def test_splits_and_relative_folders(tmp_path, cache, monkeypatch):
    for split in ("train", "test"):
        parquet(tmp_path / "two", {"image": PICTURES}, {"image": PICTURE}, split)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(open_dataset("hfds/./two", cache)) == 8
    with refused("no split 'validation'; available: train, test"):
        open_dataset(f"hfds/{tmp_path / 'two'}", cache, split="validation")
    with refused("cannot be opened"):
        open_dataset(f"hfds/{tmp_path / 'empty'}", cache)


def test_broken_bytes_raise(tmp_path, cache):
    pictures = [*PICTURES[:3], {"bytes": b"not an image", "path": "broken.png"}, *PICTURES[4:]]
    parquet(tmp_path / "broken", {"image": pictures, "label": LABELS}, {"image": PICTURE, "label": CLASSES})
    source = open_dataset(f"hfds/{tmp_path / 'broken'}", cache)
    with pytest.raises(OSError):
        source.load(3)
    assert source.name(3).startswith("broken.png") and source.load(4)[1] == LABELS[4]


@needs_data
@pytest.mark.parametrize(("name", "split", "count", "classes", "side"), [
    ("cifar10", "train", 50_000, "airplane automobile", 32), ("cifar10", "test", 10_000, "airplane automobile", 32),
    ("tiny-imagenet-80", "validation", 4000, "n01629819", 64),
])
def test_real_sets(cache, name, split, count, classes, side):
    source = open_dataset(f"hfds/$BURN_DATA/{name}", cache, split=split)
    assert len(source) == count and " ".join(source.class_names).startswith(classes)
    assert source.description == f"hfds/$BURN_DATA/{name} [{split}], {count:,} images, {source.num_classes} classes"
    image, target = source.load(123)
    assert image.size == (side, side) and image.mode == "RGB" and 0 <= target < source.num_classes
    assert name != "cifar10" or f"/{source.class_names[target]}/" in source.name(123)
    images, labels = next(iter(eval_loader(source, make_view("none", 32), batch_size=300)))
    assert images.shape == (300, 3, 32, 32) and labels.max() < source.num_classes
    by_workers, alone = (  # decoded by workers into the shared cache first
        list(train_loader(source, make_view("burn", 32), batch_size=64, total=2, workers=workers)) for workers in (2, 0)
    )
    for batch, other in zip(by_workers, alone, strict=True):
        assert torch.equal(batch["views"], other["views"]) and torch.equal(batch["target"], other["target"])
