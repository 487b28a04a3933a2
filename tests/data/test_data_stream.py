"""`wds/`: shards written here, read through timm's stream."""

import io
import json
import logging
import tarfile

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from burn_timm.data import eval_loader, make_view, open_dataset
from burn_timm.data.device_views import DeviceViews, drawn_views

from .pictures import png, refused, scans, train_loader

pytest.importorskip("webdataset")
PER_SHARD = 40
TARGETS = load_digits().target


def add(tar: tarfile.TarFile, name: str, content: dict[str, bytes]) -> None:
    for ending, data in content.items():
        info = tarfile.TarInfo(f"{name}.{ending}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


def write_shards(root, shards: int, labels: bool = True, broken=(), classes=None) -> None:
    names = []
    for shard in range(shards):
        names.append(f"digits-{shard:04d}.tar")
        with tarfile.open(root / names[-1], "w") as tar:
            for number in range(shard * PER_SHARD, (shard + 1) * PER_SHARD):
                content = {"png": b"broken" if number in broken else png(number)}
                if labels:
                    content["cls"] = (classes or {}).get(number, str(TARGETS[number]).encode())
                add(tar, f"{number:05d}", content)
    split = dict(name="train", filenames=names, shard_lengths=[PER_SHARD] * shards, num_samples=PER_SHARD * shards)
    (root / "_info.json").write_text(json.dumps({"splits": {"train": split}}))


def batches(source, total=8, **options) -> list[dict]:
    return list(train_loader(source, make_view("burn", 32), total=total, **options))


@pytest.fixture
def source(tmp_path):
    write_shards(tmp_path, 4)
    return open_dataset("wds/digits", tmp_path)


def test_a_pass_is_in_order_and_whole(source, tmp_path):
    assert source.streaming and source.labelled and len(source) == 160 and source.num_classes is None
    assert source.description == f"wds {tmp_path.name} [train], about 160 images"
    pairs = list(source)
    assert [target for _, target in pairs] == TARGETS[:160].tolist()
    assert pairs[7][0].mode == "RGB"
    np.testing.assert_array_equal(np.asarray(pairs[7][0])[..., 0], scans()[7])
    assert len(list(open_dataset("wds/digits", tmp_path, split="digits-{0000..0001}.tar|80"))) == 80
    front, back = (open_dataset("wds/digits", tmp_path, split=f"digits-{part}") for part in
                   ("{0000..0002}.tar|120", "{0002..0003}.tar|80"))
    assert front.shared(back) == 40
    loaded = list(eval_loader(source, make_view("none", 32), batch_size=50, limit=120))
    assert [len(y) for _, y in loaded] == [50, 50, 20]
    assert torch.cat([y for _, y in loaded]).tolist() == TARGETS[:120].tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_training_stream(source, workers):
    """One and a half times round, the same again, in an order of the seed, with a seed for each view."""
    def noise(image):
        return torch.randint(0, 256, (3, 4, 4), dtype=torch.uint8)

    state, labels = torch.get_rng_state(), TARGETS[:160]
    seen, again, other = (
        list(train_loader(source, noise, workers=workers, total=total, seed=seed))
        for total, seed in ((30, 5), (30, 5), (2, 4))
    )
    assert torch.equal(torch.get_rng_state(), state) and len(seen) == 30
    assert all(batch["views"].shape == (8, 2, 3, 4, 4) and batch["target"].shape == (8,) for batch in seen)
    assert all(torch.equal(a["views"], b["views"]) for a, b in zip(seen, again, strict=True))
    assert not torch.equal(other[0]["views"], seen[0]["views"])
    first = torch.cat([batch["target"] for batch in seen[:20]])  # one epoch: every image once
    assert torch.equal(first.bincount(minlength=10), torch.tensor(np.bincount(labels)))
    assert first.tolist() != labels.tolist()
    views = torch.cat([batch["views"] for batch in seen]).flatten(0, 1)
    assert len({view.numpy().tobytes() for view in views}) == 480


def test_processes_share_the_shards(source):
    counts = [torch.cat([b["target"] for b in batches(source, rank=rank, world_size=2, total=10)]) for rank in (0, 1)]
    expected = np.bincount(TARGETS[:160], minlength=10)
    assert torch.cat(counts).bincount(minlength=10).tolist() == expected.tolist()
    assert counts[0].tolist() != counts[1].tolist()
    with refused(r"4 shard\(s\), fewer than the 5 processes"):
        batches(source, world_size=5)


@pytest.mark.parametrize("stored", [b"-1", b"-5", b"cat"])
def test_a_class_that_is_none_is_one_line_or_nothing_is_labelled(tmp_path, stored):
    """Negative classes reached cross-entropy."""
    write_shards(tmp_path, 1, classes={9: stored})
    source = open_dataset("wds/digits", tmp_path)
    for read in (lambda: list(source), lambda: batches(source, workers=2)):
        with refused(f"sample 00009 has the class .*{stored.decode()}.*--target-key ''"):
            read()
    without = open_dataset("wds/digits", tmp_path, target_key="")
    assert not without.labelled and [target for _, target in without] == [-1] * PER_SHARD


@pytest.mark.parametrize("shards", [{"labels": False}, {"classes": dict.fromkeys(range(PER_SHARD), b"-1")}])
def test_unlabelled_shards(tmp_path, shards):
    write_shards(tmp_path, 1, **shards)
    source = open_dataset("wds/digits", tmp_path)
    assert not source.labelled and "unlabelled" in source.description
    with refused("svm: needs labels"):
        source.require_labels("svm")
    assert [target for _, target in source] == [-1] * PER_SHARD
    assert all((batch["target"] == -1).all() for batch in batches(source, workers=2))  # more than there are shards


def test_classes_in_json(tmp_path):
    with tarfile.open(tmp_path / "x-0.tar", "w") as tar:
        for number in range(3):
            add(tar, str(number), {"png": png(number), "json": json.dumps({"kind": number + 4}).encode()})
    source = open_dataset("wds/x", tmp_path, "x-{0..0}.tar|3", target_key="kind", input_key="png")
    assert source.labelled and [target for _, target in source] == [4, 5, 6]
    with refused("sample 0 has the class None"):
        list(open_dataset("wds/x", tmp_path, "x-{0..0}.tar|3", target_key="other"))


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_left_out_with_a_warning_and_nothing_else_is_one_line(tmp_path, workers, caplog):
    write_shards(tmp_path, 1, broken={3, 4})
    with caplog.at_level(logging.WARNING):
        assert len(list(open_dataset("wds/digits", tmp_path))) == PER_SHARD - 2
    assert caplog.text.count("Handling webdataset error") == 2
    write_shards(tmp_path, 2, broken=set(range(80)))
    source = open_dataset("wds/digits", tmp_path)
    for read in (lambda: batches(source, workers=workers), lambda: list(eval_loader(source, make_view("none", 32)))):
        with refused("no image could be read"):
            read()


@pytest.mark.parametrize(("data_dir", "split", "told"), [
    (None, "train", "--data-dir"),
    ("nowhere", "train", "no such folder"),
    ("", "test", "test.*train"),
    ("", "digits-{0000..0003}.tar", "images as"),
    ("", "digits-{0003..0005}.tar|120", "no file digits-0004.tar"),
    ("", "broken.tar|10", "broken.tar is not a readable tar"),
])
def test_bad_input_is_one_line(source, tmp_path, data_dir, split, told):
    (tmp_path / "broken.tar").write_bytes(b"x" * 2000)
    with refused(told):
        open_dataset("wds/digits", data_dir if data_dir is None else tmp_path / data_dir, split=split)


def test_a_stream_has_no_end_no_cache_and_its_views_may_be_made_on_the_device(source):
    (one,), (drawn,) = batches(source, total=1), batches(source, total=1, make=drawn_views)
    done = DeviceViews({"views": [make_view("burn", 32)] * 2})(drawn, torch.device("cpu"))
    assert torch.equal(done["target"], one["target"])
    assert (done["views"].int() - one["views"].int()).abs().max() <= 6
    assert source.cached("auto") is source.cached("off") is source
    with refused("--cache disk: wds .*: a stream cannot be cached"):
        source.cached("disk")
