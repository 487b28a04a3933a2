"""digits, folders, tars and torchvision's datasets through `open_dataset`, and the cache of decoded images."""

import builtins
import hashlib
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from burn_timm.data import cache as cache_module
from burn_timm.data.cache import PixelCache
from burn_timm.data.datasets import open_dataset
from burn_timm.data.sources import ImageSource, public_path
from burn_timm.errors import BurnError


def one_line(match: str):
    """A context in which a BurnError of one line that matches must be raised."""

    class OneLine:
        def __enter__(self):
            self.raises = pytest.raises(BurnError, match=match)
            self.info = self.raises.__enter__()

        def __exit__(self, *error):
            caught = self.raises.__exit__(*error)
            assert "\n" not in str(self.info.value)
            return caught

    return OneLine()


def digit(number: int, size: int = 16) -> Image.Image:
    pixels = (load_digits().images[number] * 15).astype(np.uint8)
    return Image.fromarray(pixels).convert("RGB").resize((size, size))


def write(path, number: int, size: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digit(number, size).save(path)


def test_digits_split_is_fixed_disjoint_and_balanced():
    train, test = open_dataset("digits"), open_dataset("digits", split="test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.labelled and train.num_classes == 10 and train.class_names == list("0123456789")
    assert not train.streaming and train.description == "digits [train], 1,437 images, 10 classes"
    digits = load_digits()
    pixels = np.rint(digits.images / 16 * 255).astype(np.uint8)
    originals: dict[bytes, list[int]] = {}
    for image, target in zip(pixels, digits.target, strict=True):
        originals.setdefault(image.tobytes(), []).append(int(target))
    seen = []
    for source in (train, test):
        targets = []
        for index in range(len(source)):
            image, target = source.load(index)
            assert image.mode == "RGB" and image.size == (8, 8)
            array = np.asarray(image)
            assert (array[..., 0] == array[..., 1]).all() and (array[..., 0] == array[..., 2]).all()
            key = array[..., 0].tobytes()
            assert target in originals[key]
            seen.append(key)
            targets.append(target)
        counts, whole = np.bincount(targets), np.bincount(digits.target)
        share = 0.8 if source is train else 0.2
        assert (np.abs(counts - share * whole) <= 1).all()
    assert sorted(seen) == sorted(image.tobytes() for image in pixels)  # together, every sample once
    # Written down once: a test set that moves would make earlier figures incomparable.
    validation = open_dataset("digits", split="validation")
    content = b"".join(validation.load(index)[0].tobytes() for index in range(len(validation)))
    assert hashlib.sha256(content).hexdigest()[:16] == "3245e81cb05b8f07"


def test_digits_have_no_data_dir(tmp_path):
    with one_line("--dataset digits lies inside scikit-learn; leave it or --data-dir .* out"):
        open_dataset("digits", tmp_path)


def test_digits_bad_split():
    with one_line("no split 'dev'; available: train, test"):
        open_dataset("digits", split="dev")


def test_folder_with_classes_and_splits(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for label in ("cat", "dog"):
            for number in range(count):
                write(tmp_path / split / label / f"{number}.png", number)
    for name in ("", "folder"):
        train, val = (open_dataset(name, tmp_path, split=split) for split in ("train", "validation"))
        assert (len(train), len(val)) == (6, 4)
        assert train.class_names == ["cat", "dog"] and train.num_classes == 2 and train.labelled
        assert [train.load(index)[1] for index in range(6)] == [0, 0, 0, 1, 1, 1]
        assert train.name(4) == f"dog/1.png (image 4 of folder {tmp_path.name} [train])"
        assert str(tmp_path.parent) not in train.description
    np.testing.assert_array_equal(np.asarray(train.load(1)[0]), np.asarray(digit(1)))
    assert len(open_dataset(str(tmp_path), split="val")) == 4  # the folder as the name
    assert len(open_dataset("", tmp_path / "val", split="validation")) == 4  # a split's folder itself
    with one_line("no split 'test'; available: train, val"):
        open_dataset("folder", tmp_path, split="test")


def test_folder_without_splits_is_a_training_set_only(tmp_path):
    write(tmp_path / "cat" / "a.png", 0)
    write(tmp_path / "dog" / "b.png", 1)
    assert open_dataset("folder", tmp_path).num_classes == 2
    with one_line("no split 'validation'.*only train"):
        open_dataset("folder", tmp_path, split="validation")


def test_unlabelled_folders(tmp_path):
    for number in range(4):
        write(tmp_path / "flat" / f"{number}.jpg", number)
        write(tmp_path / "one" / "images" / f"{number}.png", number)
        write(tmp_path / "mixed" / ("sub" if number < 2 else ".") / f"{number}.png", number)
    for name in ("flat", "one", "mixed"):
        source = open_dataset("folder", tmp_path / name)
        assert not source.labelled and source.num_classes is None and source.class_names is None
        assert [source.load(index)[1] for index in range(4)] == [-1] * 4
        assert source.description == f"folder {name} [train], 4 images, unlabelled"


def test_folder_other_modes_become_rgb(tmp_path):
    Image.new("L", (9, 7), 30).save(tmp_path / "a.png")
    Image.new("RGBA", (9, 7), (1, 2, 3, 100)).save(tmp_path / "b.png")
    Image.new("P", (9, 7)).save(tmp_path / "c.png")
    source = open_dataset("folder", tmp_path)
    assert [source.load(index)[0].mode for index in range(3)] == ["RGB"] * 3


def test_a_broken_image_raises_instead_of_becoming_another(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.png", number, size=60)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:300])
    source = open_dataset("folder", tmp_path)
    with pytest.raises(OSError):
        source.load(1)
    with pytest.raises(OSError):
        source.load(1)
    assert source.name(1).startswith("1.png")


def test_tar_of_class_folders(tmp_path):
    for label in ("cat", "dog"):
        write(tmp_path / label / "a.png", len(label) + ord(label[0]))
    archive = tmp_path / "all.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "cat", "cat")
        tar.add(tmp_path / "dog", "dog")
    source = open_dataset("", archive)
    assert source.class_names == ["cat", "dog"] and [source.load(i)[1] for i in range(2)] == [0, 1]
    np.testing.assert_array_equal(np.asarray(source.load(1)[0]), np.asarray(digit(3 + ord("d"))))
    assert pickle.loads(pickle.dumps(source)).load(0)[1] == 0


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
    image, target = test.load(4)
    assert image.mode == "RGB" and image.size == (28, 28) and target == digits.target[34]
    np.testing.assert_array_equal(np.asarray(image)[10:18, 10:18, 1], digits.images[34] * 15)
    with one_line("no split 'foo'"):
        open_dataset("torch/mnist", tmp_path, split="foo")
    with one_line("torch/cifar10"):
        open_dataset("torch/cifar10", tmp_path)
    with one_line("do not apply"):
        open_dataset("torch/mnist", tmp_path, input_key="image")


def test_torchvision_folder(tmp_path):
    for label in ("cat", "dog"):
        write(tmp_path / "train" / label / "a.png", 0)
    source = open_dataset("torch/image_folder", tmp_path)
    assert source.class_names == ["cat", "dog"] and source.load(1)[1] == 1 and source.name(1).startswith("a.png")


@pytest.mark.parametrize(
    ("name", "data_dir", "told"),
    [
        ("cifar10", None, "unknown; choose from digits"),
        ("cifar10", "HERE", "unknown; choose from"),
        ("", None, "--data-dir"),
        ("folder", "HERE/nowhere", "no such folder"),
        ("folder", "HERE", "0 images"),
        ("torch/nothing", "HERE", "Unknown torchvision dataset"),
        ("torch/mnist", None, "--data-dir"),
        ("torch/", "HERE", "unknown"),
        ("hfds/HERE/nowhere", None, "no such folder"),
        ("hfds/", None, "unknown"),
        ("$NO_SUCH_VARIABLE/x", None, "NO_SUCH_VARIABLE is not set"),
        ("folder", "${NO_SUCH_VARIABLE}/x", "NO_SUCH_VARIABLE is not set"),
    ],
)
def test_bad_names_are_one_line(name, data_dir, told, tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    with one_line(told):
        open_dataset(name.replace("HERE", str(tmp_path)), data_dir and data_dir.replace("HERE", str(tmp_path)))


@pytest.mark.parametrize(("name", "package"), [("hfds/x/y", "datasets"), ("wds/x", "webdataset")])
def test_missing_packages_are_one_line(name, package, monkeypatch, tmp_path):
    real = builtins.__import__

    def without(wanted, *args, **kwargs):
        if wanted == package:
            raise ImportError(wanted)
        return real(wanted, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with one_line(f"pip install {package}"):
        open_dataset(name, tmp_path)


def test_variables_are_expanded_and_come_back(tmp_path, monkeypatch):
    write(tmp_path / "photos" / "a.png", 0)
    monkeypatch.setenv("BURN_DATA", str(tmp_path))
    for name, data_dir in (("folder", "$BURN_DATA/photos"), ("${BURN_DATA}/photos", None)):
        assert open_dataset(name, data_dir).description == "folder $BURN_DATA/photos [train], 1 images, unlabelled"
    assert public_path(str(tmp_path)) == "$BURN_DATA"
    assert public_path(str(tmp_path) + "2/a") == "a"
    monkeypatch.delenv("BURN_DATA")
    assert public_path(str(tmp_path / "photos")) == "photos"


def test_cache_returns_the_same_images(tmp_path):
    for number in range(6):
        write(tmp_path / str(number % 2) / f"{number}.png", number)
    cached, plain = open_dataset("folder", tmp_path), open_dataset("folder", tmp_path)
    plain._cache = None
    for _ in range(2):
        for index in range(6):
            image, target = cached.load(index)
            expected, expected_target = plain.load(index)
            assert target == expected_target
            np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
            image.paste((1, 2, 3), (0, 0, 16, 16))  # what a caller does to its image must not reach the cache
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    assert np.asarray(cached.load(5)[0]).tobytes() == np.asarray(digit(5)).tobytes()
    copy = pickle.loads(pickle.dumps(cached))
    with pytest.raises(FileNotFoundError):  # a pickled copy starts empty
        copy.load(5)


def test_cache_is_shared_with_forked_processes_and_checked():
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    cache = PixelCache(4, 5, 6)
    pixels = np.arange(90, dtype=np.uint8).reshape(5, 6, 3)
    assert cache.get(2) is None
    child = os.fork()
    if child == 0:
        cache.put(2, pixels, -1)
        cache.put(1, pixels[:4], 3)  # another size: left out
        os._exit(0)
    os.waitpid(child, 0)
    kept, target = cache.get(2)
    np.testing.assert_array_equal(kept, pixels)
    assert target == -1 and cache.get(1) is None and cache.get(3) is None
    kept[0, 0, 0] ^= 1  # half-written by another process
    assert cache.get(2) is None


def test_cache_is_for_small_images_of_one_size(tmp_path, monkeypatch):
    for number in range(3):
        write(tmp_path / "same" / f"{number}.png", number)
        write(tmp_path / "mixed" / f"{number}.png", number, size=16 + number)
    assert open_dataset("folder", tmp_path / "same")._cache is not None
    assert open_dataset("folder", tmp_path / "mixed")._cache is None
    assert PixelCache.fits(50_000, 32, 32) and not PixelCache.fits(50_000, 64, 64)
    monkeypatch.setattr(cache_module, "MOST_BYTES", 3 * 16 * 16 * 3 - 1)
    assert open_dataset("folder", tmp_path / "same")._cache is None
    assert isinstance(open_dataset("digits"), ImageSource)
