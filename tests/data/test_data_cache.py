"""`ImageSource.cached`: the same images from memory or a file, smaller ones where asked, and what has no room."""

import os
import pickle
import re
import shutil

import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from burn_timm.data import cache as cache_module
from burn_timm.data.datasets import open_dataset
from burn_timm.data.sources import ImageSource, Store

from .pictures import assert_same_images, digit, refused, write


class Photos(Store):
    """Pieces of a photo, read and counted."""

    photo = Image.fromarray(load_sample_image("china.jpg"))

    def __init__(self, sizes: list[tuple[int, int]], unreadable=()) -> None:
        self.sizes, self.unreadable, self.reads = sizes, unreadable, []

    def __len__(self) -> int:
        return len(self.sizes)

    def image(self, index: int) -> Image.Image:
        self.reads.append(index)
        if index in self.unreadable:
            raise OSError("broken")
        return self.photo.crop((index, index, index + 200, index + 150)).resize(self.sizes[index])


SAME, MIXED = [(30, 20)] * 40, [(30 + index // 3, 24 + 2 * (index % 7)) for index in range(40)]


def source_of(images: Photos) -> ImageSource:
    return ImageSource(images, "photos", [index % 3 for index in range(len(images))], list("abc"), cache=False)


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize(("sizes", "side"), [(SAME, None), (SAME, 16), (MIXED, 24)], ids=("same", "smaller", "mixed"))
def test_each_image_is_read_once_and_given_as_without_a_cache(tmp_path, kind, sizes, side):
    images = Photos(sizes)
    plain = source_of(Photos(sizes)).cached("off", side)
    source = source_of(images).cached(kind, side, str(tmp_path))
    images.reads.clear()
    for _ in range(2):
        assert_same_images(source, plain)
    assert sorted(images.reads) == list(range(40))
    if side:
        assert all(min(source.load(index)[0].size) == min(side, *sizes[index]) for index in range(40))
    for image, _ in (source.load(3), source.load(3)):
        image.paste((1, 2, 3), (0, 0, 9, 9))  # what a caller does to its image must not reach the cache
    assert_same_images(source, plain)


def test_a_reduced_image_keeps_its_shape_and_a_small_or_long_one_is_given_all_the_same():
    images = Photos([(100, 60), (60, 101), (20, 14), (300, 20)] + [(40, 40)] * 9)
    source = source_of(images).cached("memory", 20)
    assert [source.load(index)[0].size for index in range(5)] == [(33, 20), (20, 33), (20, 14), (300, 20), (20, 20)]
    expected = images.image(0).resize((33, 20), Image.Resampling.BICUBIC)
    assert source.load(0)[0].tobytes() == expected.tobytes()
    images.reads.clear()
    assert [source.load(index)[0].size for index in (2, 3)] == [(20, 14), (300, 20)]
    assert images.reads == [3]  # too long for its place


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_what_one_process_has_read_serves_others_and_a_file_later_runs(tmp_path, kind):
    images = Photos(SAME)
    first = source_of(images).cached(kind, None, str(tmp_path))
    child = os.fork()
    if child == 0:
        for index in range(20):
            first.load(index)
        os._exit(0)
    os.waitpid(child, 0)
    images.reads.clear()
    assert_same_images(first, source_of(Photos(SAME)))
    assert sorted(images.reads) == list(range(20, 40))
    if kind == "memory":
        return
    (file,) = tmp_path.iterdir()
    assert re.fullmatch(r"photos-40-images-3-classes-[0-9a-f]{16}\.pixels", file.name)
    assert file.stat().st_size == 40 * (30 * 20 * 3 + 24)
    images = Photos(SAME)
    later = source_of(images).cached("disk", None, str(tmp_path))
    images.reads.clear()
    for source in (later, pickle.loads(pickle.dumps(later))):
        assert_same_images(source, source_of(Photos(SAME)))
    assert not images.reads


def test_a_damaged_entry_is_read_anew(tmp_path):
    images = Photos(SAME)
    source = source_of(images).cached("disk", None, str(tmp_path))
    plain = source_of(Photos(SAME))
    assert_same_images(source, plain)
    (file,) = tmp_path.iterdir()
    record = 30 * 20 * 3 + 24
    content = bytearray(file.read_bytes())
    content[4 * record + 100] ^= 1  # a pixel
    content[7 * record + 16] ^= 1  # a width
    content[9 * record + 8] ^= 1  # a height
    content[11 * record] ^= 1  # a checksum
    file.write_bytes(content[: 38 * record + 40])  # and the end is missing
    source = source_of(images).cached("disk", None, str(tmp_path))
    for read_anew in ([4, 7, 9, 11, 38, 39], []):
        images.reads.clear()
        assert_same_images(source, plain)
        assert sorted(images.reads) == read_anew


def test_every_dataset_has_its_own_file(tmp_path):
    def files(*arguments, side=None, **options) -> set:
        source_of(Photos(*arguments, **options)).cached("disk", side, str(tmp_path))
        return set(tmp_path.iterdir())

    one = files(SAME)
    assert files(SAME) == one
    assert len(files(SAME, side=10)) == 2 and len(files(SAME, side=12)) == 3
    assert len(files(SAME[:-1])) == 4 and len(files([(20, 30)] * 40)) == 5

    for name in ("a", "b"):  # the same images, but one has another name
        for number in range(20):
            write(tmp_path / name / f"{number if name == 'a' or number != 13 else 'x'}.png", number)
    for name in "abb":
        kept = open_dataset("", str(tmp_path / name)).cached("disk", None, str(tmp_path / "kept"))
        assert_same_images(kept, open_dataset("", str(tmp_path / name)).cached("off"))
    assert len(list((tmp_path / "kept").iterdir())) == 2
    source = open_dataset("", str(tmp_path / "b"))
    write(tmp_path / "b" / source.file_name(4), 99, 12)  # none of the images whose pixels are looked at
    source.cached("disk", None, str(tmp_path / "kept"))
    assert len(list((tmp_path / "kept").iterdir())) == 3


def test_the_file_of_mixed_sizes_takes_the_space_of_the_images(tmp_path):
    source = ImageSource(Photos([(200, 150)] * 40), "photos", cache=False).cached("disk", 128, str(tmp_path))
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
    ("disk", MIXED, 10**9, 1, "--cache disk: images of several sizes .*--cache-size PIXELS"),
    ("memory", SAME, 50_000, 1, "--cache memory needs about 0.1 MB for 40 images.* 0.1 MB .*smaller --cache-size"),
    ("disk", SAME, 50_000, 1, "--cache disk needs about 0.1 MB for 40 images.* 0.1 MB .*smaller --cache-size"),
    ("memory", SAME, 100_000, 3, "needs about 0.2 MB for 40 images in each of 3 processes"),
    ("disk", SAME, None, 1, "--cache disk: .*; choose another --cache-dir"),
])
def test_what_cannot_be_kept_is_one_line(tmp_path, monkeypatch, kind, sizes, free, processes, told):
    folder = tmp_path
    if free is None:
        folder = tmp_path / "file"
        folder.write_text("")
    else:
        monkeypatch.setattr(cache_module, "_free_memory", lambda: free)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, free))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    with refused(told):
        source_of(Photos(sizes)).cached(kind, None, str(folder))


def test_a_disk_that_fills_up_is_told_once_and_reading_goes_on(tmp_path, monkeypatch, caplog):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    images = Photos(SAME)
    source = source_of(images).cached("disk", None, str(tmp_path))
    monkeypatch.setattr(os, "pwrite", full)
    assert_same_images(source, source_of(Photos(SAME)))
    assert caplog.text.count("No space left on device") == 1


def test_unreadable_images_are_no_reason_to_fail(tmp_path):
    source = ImageSource(Photos(SAME, unreadable=(0, 39)), "photos", cache=False).cached("disk", None, str(tmp_path))
    assert source.load(1)[0].size == (30, 20)
    with pytest.raises(OSError, match="broken"):
        source.load(0)
    assert ImageSource(Photos(SAME, unreadable=range(40)), "photos", cache=False).cached("memory")._cache is None


def test_small_images_of_one_size_are_kept_by_themselves(tmp_path, monkeypatch):
    for number in range(6):
        write(tmp_path / "same" / str(number % 2) / f"{number}.png", number)
        write(tmp_path / "mixed" / f"{number}.png", number, size=16 + number)
    cached = open_dataset("folder", tmp_path / "same")
    assert cached.cached("auto") is cached
    for _ in range(2):
        assert_same_images(cached, open_dataset("folder", tmp_path / "same").cached("off"))
    mixed = open_dataset("folder", tmp_path / "mixed")
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
