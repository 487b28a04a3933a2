"""`hfds/`: local parquet folders, with columns found or named; and the real sets where BURN_DATA points to them."""

import os
import time
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


def test_unknown_split_lists_the_others(tmp_path, cache):
    for split in ("train", "test"):
        parquet(tmp_path / "two", {"image": PICTURES}, {"image": PICTURE}, split)
    with refused("no split 'validation'; available: train, test"):
        open_dataset(f"hfds/{tmp_path / 'two'}", cache, split="validation")
    (tmp_path / "empty").mkdir()
    with refused("cannot be opened"):
        open_dataset(f"hfds/{tmp_path / 'empty'}", cache)


def test_relative_folder(tmp_path, cache, monkeypatch):
    parquet(tmp_path / "here", {"image": PICTURES}, {"image": PICTURE})
    monkeypatch.chdir(tmp_path)
    assert len(open_dataset("hfds/./here", cache)) == 8


def test_broken_bytes_raise(tmp_path, cache):
    pictures = [*PICTURES[:3], {"bytes": b"not an image", "path": "broken.png"}, *PICTURES[4:]]
    parquet(tmp_path / "broken", {"image": pictures, "label": LABELS}, {"image": PICTURE, "label": CLASSES})
    source = open_dataset(f"hfds/{tmp_path / 'broken'}", cache)
    with pytest.raises(OSError):
        source.load(3)
    assert source.name(3).startswith("broken.png") and source.load(4)[1] == LABELS[4]


@needs_data
def test_real_cifar10(cache):
    started = time.perf_counter()
    train = open_dataset("hfds/$BURN_DATA/cifar10", cache)
    test = open_dataset("hfds/$BURN_DATA/cifar10", cache, split="test")
    assert time.perf_counter() - started < 60
    assert (len(train), len(test), train.num_classes) == (50_000, 10_000, 10)
    assert train.class_names[:2] == ["airplane", "automobile"]
    assert train.description == "hfds/$BURN_DATA/cifar10 [train], 50,000 images, 10 classes"
    image, target = train.load(123)
    assert image.size == (32, 32) and image.mode == "RGB" and f"/{train.class_names[target]}/" in train.name(123)
    images, targets = next(iter(eval_loader(test, make_view("none", 32), batch_size=300)))
    assert images.shape == (300, 3, 32, 32) and torch.bincount(targets, minlength=10).shape == (10,)

    def batches(workers: int) -> list[dict]:
        steps = len(train) // 128
        return list(train_loader(
            train, make_view("burn", 32), batch_size=64, world_size=2, rank=1, start=steps - 1, total=steps + 2,
            workers=workers,
        ))

    for batch, other in zip(batches(2), batches(0), strict=True):  # decoded by workers into the shared cache first
        assert batch["views"].shape == (64, 2, 3, 32, 32) and not batch["corrupt"].numel()
        assert torch.equal(batch["views"], other["views"]) and torch.equal(batch["target"], other["target"])


@needs_data
def test_real_tiny_imagenet(cache):
    source = open_dataset("hfds/$BURN_DATA/tiny-imagenet-80", cache, split="validation")
    assert (len(source), source.num_classes) == (4000, 80) and source.class_names[0] == "n01629819"
    image, target = source.load(2500)
    assert image.size == (64, 64) and 0 <= target < 80
    counts = torch.cat([y for _, y in eval_loader(source, lambda image: torch.zeros(1), limit=400)])
    assert len(counts) == 400
    with refused("available: train, validation"):
        open_dataset("hfds/$BURN_DATA/tiny-imagenet-80", cache, split="test")
