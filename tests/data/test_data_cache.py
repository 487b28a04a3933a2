"""`ImageSource.cached`: the same images from memory or a file, smaller ones where asked, and what has no room."""

import os
import pickle
import re
import shutil
from types import SimpleNamespace

import pytest
from PIL import Image

from burn_timm.data import cache as cache_module
from burn_timm.data.datasets import open_dataset
from burn_timm.data.sources import ImageSource, Store

from .pictures import assert_same_images, digit, photo, refused, write


class Photos(Store):
    """Pieces of a photo, read and counted."""

    def __init__(self, sizes: list[tuple[int, int]], unreadable=()) -> None:
        self.sizes, self.unreadable, self.reads = sizes, unreadable, []

    def __len__(self) -> int:
        return len(self.sizes)

    def image(self, index: int) -> Image.Image:
        self.reads.append(index)
        if index in self.unreadable:
            raise OSError("broken")
        return photo().crop((index, index, index + 200, index + 150)).resize(self.sizes[index])


SAME, MIXED = [(30, 20)] * 40, [(30 + index // 3, 24 + 2 * (index % 7)) for index in range(40)]
RECORD = 30 * 20 * 3 + 24


def source_of(sizes=SAME, unreadable=()) -> ImageSource:
    classes = [index % 3 for index in range(len(sizes))]
    return ImageSource(Photos(sizes, unreadable), "photos", classes, list("abc"), cache=False)


def read(source, expected) -> list[int]:
    """The images that were read in a pass over the source; all are the expected ones."""
    source._store.reads.clear()
    assert_same_images(source, expected)
    return sorted(source._store.reads)


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize(("sizes", "side"), [(SAME, None), (SAME, 16), (MIXED, 24)], ids=("same", "smaller", "mixed"))
def test_each_image_is_read_once_and_given_as_without_a_cache(tmp_path, kind, sizes, side):
    plain, source = source_of(sizes).cached("off", side), source_of(sizes).cached(kind, side, str(tmp_path))
    assert read(source, plain) == list(range(40)) and read(source, plain) == []
    if side:
        assert all(min(source.load(index)[0].size) == min(side, *sizes[index]) for index in range(40))
    source.load(3)[0].paste((1, 2, 3), (0, 0, 9, 9))  # what a caller does to its image must not reach the cache
    assert read(source, plain) == []


def test_a_reduced_image_keeps_its_shape_and_a_small_or_long_one_is_given_all_the_same():
    source = source_of([(100, 60), (60, 101), (20, 14), (300, 20)] + [(40, 40)] * 9).cached("memory", 20)
    assert [source.load(index)[0].size for index in range(5)] == [(33, 20), (20, 33), (20, 14), (300, 20), (20, 20)]
    expected = source._store.image(0).resize((33, 20), Image.Resampling.BICUBIC)
    assert source.load(0)[0].tobytes() == expected.tobytes()
    source._store.reads.clear()
    assert [source.load(index)[0].size for index in (2, 3, 4)] == [(20, 14), (300, 20), (20, 20)]
    assert source._store.reads == [3]  # too long for its place


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_what_one_process_has_read_serves_others_and_a_file_later_runs(tmp_path, kind):
    plain, first = source_of(), source_of().cached(kind, None, str(tmp_path))
    child = os.fork()
    if child == 0:
        for index in range(20):
            first.load(index)
        os._exit(0)
    os.waitpid(child, 0)
    assert read(first, plain) == list(range(20, 40))
    if kind == "disk":
        (file,) = tmp_path.iterdir()
        assert re.fullmatch(r"photos-40-images-3-classes-[0-9a-f]{16}\.pixels", file.name)
        assert file.stat().st_size == 40 * RECORD
        later = source_of().cached("disk", None, str(tmp_path))
        assert read(later, plain) == read(pickle.loads(pickle.dumps(later)), plain) == []


def test_a_damaged_entry_is_read_anew(tmp_path):
    plain = source_of()
    assert_same_images(source_of().cached("disk", None, str(tmp_path)), plain)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    for damaged in (4 * RECORD + 100, 7 * RECORD + 16, 9 * RECORD + 8, 11 * RECORD):  # pixel, width, height, checksum
        content[damaged] ^= 1
    file.write_bytes(content[: 38 * RECORD + 40])  # and the end is missing
    source = source_of().cached("disk", None, str(tmp_path))
    assert read(source, plain) == [4, 7, 9, 11, 38, 39] and read(source, plain) == []


def test_every_dataset_has_its_own_file(tmp_path):
    def files(*arguments, side=None) -> int:
        source_of(*arguments).cached("disk", side, str(tmp_path / "photos"))
        return len(list((tmp_path / "photos").iterdir()))

    counts = [files(), files(), files(side=10), files(side=12), files(SAME[:-1]), files([(20, 30)] * 40)]
    assert counts == [1, 1, 2, 3, 4, 5]

    for number in range(20):  # the same images, but one has another name
        write(tmp_path / "a" / f"{number}.png", number)
        write(tmp_path / "b" / f"{'x' if number == 13 else number}.png", number)
    for name, count in (("a", 1), ("b", 2), ("b", 2), ("changed", 3)):
        if name == "changed":  # an image whose pixels are not looked at
            name = "b"
            write(tmp_path / "b" / open_dataset("", str(tmp_path / "b")).file_name(4), 99, 12)
        source = open_dataset("", str(tmp_path / name))
        assert_same_images(source.cached("disk", None, str(tmp_path / "kept")), source.cached("off"))
        assert len(list((tmp_path / "kept").iterdir())) == count


@pytest.mark.parametrize("opened", ["", "hfds/"])
def test_an_edit_that_keeps_the_size_of_the_file_is_seen(tmp_path, opened):
    """An uncompressed image has as many bytes after it, and most images' pixels are not looked at."""
    for number in range(40):
        write(tmp_path / "a" / "train" / f"{number}.bmp", number)

    def read_all() -> str:
        source = open_dataset(f"{opened}{tmp_path}/a", opened and str(tmp_path / "hub"))
        for given in (source, source.subset(range(1, 38))):
            assert_same_images(given.cached("disk", None, str(tmp_path / "kept")), given.cached("off"))
        return source.listing_hash()

    listing = read_all()
    changed = tmp_path / "a" / "train" / "4.bmp"
    before = changed.stat()
    write(changed, 99)
    os.utime(changed, ns=(before.st_mtime_ns + 10**9, before.st_mtime_ns + 10**9))  # some file systems count in seconds
    assert read_all() == listing and changed.stat().st_size == before.st_size  # by the listing runs are resumed


def test_the_file_of_mixed_sizes_takes_the_space_of_the_images(tmp_path):
    source = source_of([(200, 150)] * 40).cached("disk", 128, str(tmp_path))
    for index in range(40):
        source.load(index)
    (file,) = tmp_path.iterdir()
    probe = tmp_path / "probe"
    with open(probe, "wb") as hole:
        hole.truncate(2**22)
    if not hasattr(os.stat_result, "st_blocks") or probe.stat().st_blocks * 512 >= 2**22:
        pytest.skip("this file system has no sparse files: asked of a file that is one hole")
    taken = file.stat().st_blocks * 512
    assert 0.99 < taken / (40 * 128 * 170 * 3) < 1.2 and file.stat().st_size > 1.4 * taken


@pytest.mark.parametrize(("kind", "sizes", "free", "processes", "told"), [
    ("memory", MIXED, 10**9, 1, "--cache memory: images of several sizes .*--cache-size PIXELS"),
    ("memory", SAME, 50_000, 1, "--cache memory needs about 0.1 MB for 40 images.* 0.1 MB .*smaller --cache-size"),
    ("disk", SAME, 50_000, 1, "--cache disk needs about 0.1 MB for 40 images.* 0.1 MB .*smaller --cache-size"),
    ("memory", SAME, 100_000, 3, "needs about 0.2 MB for 40 images in each of 3 processes"),
    ("disk", SAME, None, 1, "--cache disk .*; take another --cache-dir"),
])
def test_what_cannot_be_kept_is_one_line(tmp_path, monkeypatch, kind, sizes, free, processes, told):
    folder = tmp_path
    if free is None:
        folder = tmp_path / "file"
        folder.write_text("")
    else:
        monkeypatch.setattr(cache_module.psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    with refused(told):
        source_of(sizes).cached(kind, None, str(folder))


def test_a_disk_that_fills_up_is_told_once_and_reading_goes_on(tmp_path, monkeypatch, caplog):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    source = source_of().cached("disk", None, str(tmp_path))
    monkeypatch.setattr(os, "pwrite", full)
    assert_same_images(source, source_of())
    assert caplog.text.count("No space left on device") == 1


def test_unreadable_images_are_no_reason_to_fail(tmp_path):
    source = source_of(SAME, (0, 39)).cached("disk", None, str(tmp_path))
    assert source.load(1)[0].size == (30, 20)
    with pytest.raises(OSError, match="broken"):
        source.load(0)
    assert source_of(SAME, range(40)).cached("memory")._cache is None


def test_small_images_of_one_size_are_kept_by_themselves(tmp_path, monkeypatch):
    for number in range(6):
        write(tmp_path / "same" / f"{number}.png", number)
        write(tmp_path / "mixed" / f"{number}.png", number, size=16 + number)
    cached, mixed = (open_dataset("folder", tmp_path / name) for name in ("same", "mixed"))
    assert cached.cached("auto") is cached
    for _ in range(2):
        assert_same_images(cached, cached.cached("off"))
    monkeypatch.setattr(cache_module, "MOST_BYTES", 6 * 16 * 16 * 3 - 1)
    large = open_dataset("folder", tmp_path / "same")
    for source in (mixed, large, cached.cached("off")):
        source.load(1)
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    assert cached.load(5)[0].tobytes() == digit(5).tobytes()
    for source in (mixed, large, pickle.loads(pickle.dumps(cached))):  # a pickled copy starts empty
        with pytest.raises(FileNotFoundError):
            source.load(1)
