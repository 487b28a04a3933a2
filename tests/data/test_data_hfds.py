"""`hfds/`: local parquet folders, with columns found or named. Real sets: test_golden_views.py."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from burn_timm.data import open_dataset

from .pictures import png as png_of
from .pictures import refused, targets

datasets = pytest.importorskip("datasets")
pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")


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


def written(root: Path, keys: list[str], kinds: list) -> str:
    """Writes a set with these columns; its name for `open_dataset`."""
    of_kind = {id(PICTURE): PICTURES, id(TEXT): ["x"] * 8}
    columns = {key: of_kind.get(id(kind), LABELS) for key, kind in zip(keys, kinds, strict=True)}
    parquet(root / "pile", columns, dict(zip(keys, kinds, strict=True)))
    return f"hfds/{root / 'pile'}"


@pytest.mark.parametrize(("keys", "kinds", "names"), [
    (["image", "label"], [PICTURE, CLASSES], ["a", "b", "c"]),
    (["img", "kind", "row"], [PICTURE, CLASSES, INTEGER], ["a", "b", "c"]),
    (["photo", "digit", "text"], [PICTURE, INTEGER, TEXT], None),
])
def test_columns_are_found(tmp_path, cache, keys, kinds, names):
    source = open_dataset(written(tmp_path, keys, kinds), cache)
    assert (len(source), source.num_classes, source.class_names) == (8, 3, names) and targets(source) == LABELS
    np.testing.assert_array_equal(np.asarray(source.load(5)[0])[..., 2], load_digits().images[5] * 15)
    assert source.description == "hfds/pile [train], 8 images, 3 classes" and source.name(5).startswith("5.png")


@pytest.mark.parametrize(("keys", "kinds", "target_key"), [
    (["photo", "text"], [PICTURE, TEXT], None), (["image", "label"], [PICTURE, CLASSES], ""),
])
def test_unlabelled(tmp_path, cache, keys, kinds, target_key):
    source = open_dataset(written(tmp_path, keys, kinds), cache, target_key=target_key)
    assert not source.labelled and source.num_classes is None and source.class_names is None
    assert source.load(3)[1] == -1 and source.load(3)[0].mode == "RGB"


def test_labels_that_are_missing_or_out_of_range(tmp_path, cache):
    features = {"image": PICTURE, "label": INTEGER}
    parquet(tmp_path / "partly", {"image": PICTURES, "label": [0, -1, 2, None, 1, 2, 0, 1]}, features)
    source = open_dataset(f"hfds/{tmp_path / 'partly'}", cache)
    assert not source.labelled and [source.load(index)[1] for index in range(4)] == [0, -1, 2, -1]
    with refused("2 of 8 images"):
        source.labels()
    name = written(tmp_path, ["image", "label"], [PICTURE, CLASSES])
    (file,) = (tmp_path / "pile").iterdir()
    pq.write_table(pq.read_table(file).set_column(1, "label", pa.array([0, 1, 99, 2, 0, 1, 2, 0])), file)
    with refused(r"2.png .image 2 of hfds/pile .train.*class 99, expected 0 to 2.*--target-key ''"):
        open_dataset(name, cache)


@pytest.mark.parametrize(("keys", "told"), [
    ({}, "left, right, fine, coarse: name one by --input-key; several columns could be it: left, right"),
    ({"input_key": "left"}, "name one by --target-key, or '' for none; several columns could be it: fine, coarse"),
    ({"input_key": "middle"}, "--input-key middle: no such column in .*left, right, fine, coarse"),
    ({"input_key": "left", "target_key": "right"}, "--target-key right: no class or integer column in .*left, right"),
])
def test_choices_that_are_not_unique_need_a_name(tmp_path, cache, keys, told):
    features = {"left": PICTURE, "right": PICTURE, "fine": CLASSES, "coarse": CLASSES}
    columns = {"left": PICTURES, "right": PICTURES[::-1], "fine": LABELS, "coarse": LABELS[::-1]}
    parquet(tmp_path / "pairs", columns, features)
    with refused(told):
        open_dataset(f"hfds/{tmp_path / 'pairs'}", cache, **keys)
    source = open_dataset(f"hfds/{tmp_path / 'pairs'}", cache, input_key="right", target_key="coarse")
    assert targets(source) == LABELS[::-1] and source.name(0).startswith("7.png")


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
    with refused("text: no image column"):
        open_dataset(written(tmp_path, ["text"], [TEXT]), cache)


@pytest.mark.parametrize(("train", "val", "shared"), [
    ("train", "train[:50%]", 4), ("train[:50%]", "train[50%:]", 0), ("train[2:6]", "train[-4:]", 2),
    ("train", "test", 0), ("all", "test", 8), ("train[:4]", "train[4:]+test[:3]", 0),
    ("train+test", "test[6:]+train[:1]", 3),
])
def test_rows_that_two_splits_share_are_counted(tmp_path, cache, train, val, shared):
    for split in ("train", "test"):
        parquet(tmp_path / "two", {"image": PICTURES}, {"image": PICTURE}, split)
    ours, theirs = (open_dataset(f"hfds/{tmp_path / 'two'}", cache, split=split) for split in (train, val))
    assert ours.shared(theirs) == shared


def test_the_listing_tells_sizes_and_labels(tmp_path, cache):
    """Wherever the set lies: by it a run knows its images again."""
    found = []
    for name, last, label in (("a", b"", 0), ("b", b"", 0), ("c", b" ", 0), ("d", b"", 1)):
        longer = {"bytes": png_of(3) + last, "path": "3.png"}
        parquet(tmp_path / name, {"image": [png(2), longer], "label": [0, label]}, {"image": PICTURE, "label": CLASSES})
        found.append(open_dataset(f"hfds/{tmp_path / name}", cache).listing_hash())
    assert found[0] == found[1] and len(set(found)) == 3


def test_broken_bytes_raise(tmp_path, cache):
    pictures = [*PICTURES[:3], {"bytes": b"not an image", "path": "broken.png"}, *PICTURES[4:]]
    parquet(tmp_path / "broken", {"image": pictures}, {"image": PICTURE})
    source = open_dataset(f"hfds/{tmp_path / 'broken'}", cache)
    with pytest.raises(OSError):
        source.load(3)
    assert source.name(3).startswith("broken.png") and source.load(4)[0].size == (8, 8)


def test_a_column_of_bytes_can_be_named(tmp_path, cache):
    parquet(tmp_path / "raw", {"jpg": [one["bytes"] for one in PICTURES]}, {"jpg": datasets.Value("binary")})
    source = open_dataset(f"hfds/{tmp_path / 'raw'}", cache, input_key="jpg")
    np.testing.assert_array_equal(np.asarray(source.load(5)[0])[..., 2], load_digits().images[5] * 15)
