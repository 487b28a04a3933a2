"""`open_dataset`: one door to every dataset, in timm's spelling."""

import os
import re

import numpy as np
from PIL import Image
from timm.data import create_dataset

from burn_timm import compat
from burn_timm.data.digits import open_digits, open_digits_in_photos
from burn_timm.data.folders import SPLIT_SYNONYMS, open_folder
from burn_timm.data.hfds import open_hfds
from burn_timm.data.published import PUBLISHED
from burn_timm.data.sources import Files, ImageSource, Store, shown_path
from burn_timm.data.stream import StreamSource
from burn_timm.errors import BurnError, NoSplitError, one_line

_FOLDER_NAMES = ("", "folder", "image_folder", "imagefolder", "torch/folder", "torch/image_folder")
_TRAIN_OR_TEST = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist")  # train=True or False
_WRITTEN = ("torch/mnist", "torch/qmnist", "torch/kmnist")
_DIGITS = {"digits": open_digits, "digits_in_photos": open_digits_in_photos}
PUBLISHED_SPLITS = {name: tuple(known.images)[-2:] for name, known in PUBLISHED.items()}  # to train and to test on
TEST_SPLITS = ("validation", "val", "test")  # of other sets: the first that there is
_SCHEMES = ", ".join(
    (*_DIGITS, "hfds/NAME", "hfds/FOLDER", "or with --data-dir: folder", "wds/NAME", "torch/NAME", *PUBLISHED)
)


def open_dataset(
    name: str,
    data_dir: str | None = None,
    split: str = "train",
    input_key: str | None = None,
    target_key: str | None = None,
    download: bool = False,
) -> ImageSource | StreamSource:
    """Open a dataset by timm's name for it. Environment variables in `name` and `data_dir` are expanded.

    - `''` or `folder`: images below `data_dir`, a class for each folder of the first level; also `data_dir/SPLIT`, or a
      folder's path as `name`. `input_key` may list endings ('.png;.bmp'). See `folders.open_folder`.
    - `hfds/NAME`, `hfds/FOLDER` (relative, or absolute: `hfds//abs/path`): Hugging Face datasets, local parquet.
      `data_dir` is then its cache. See `hfds.open_hfds` for the columns.
    - `wds/NAME`: WebDataset shards in `data_dir` -> `StreamSource`. Labels are optional.
    - `torch/NAME`: torchvision's datasets in `data_dir`, fetched if `download`.
    - `digits`: the handwritten digits inside scikit-learn; `digits_in_photos`: the same in parts of its photos.
    - `cub`, `birdsnap`, `places205`, `voc07`: sets that neither timm nor torchvision reads, from the files as they were
      published, in `data_dir`. Their splits are `train` and `test` (places205: `val`); voc07 has several classes in an
      image (see `ImageSource.label_matrix`) and the splits `train`, `val`, `trainval` and `test`. The description has
      the count; where it is not the published one, a warning says so.

    Raises BurnError, in one line, for a wrong name, folder, split or column, and for a missing package.
    """
    name = _expanded(name or "", "--dataset")
    data_dir = os.path.expanduser(_expanded(data_dir, "--data-dir")) if data_dir else None
    scheme, _, rest = name.partition("/")
    scheme = scheme.lower()
    if scheme in _DIGITS and not rest:
        if data_dir:
            raise BurnError(f"--dataset {scheme} lies inside scikit-learn; leave it or --data-dir {data_dir} out")
        return _DIGITS[scheme](split)
    if scheme in ("torch", *PUBLISHED) and (input_key or target_key):
        raise BurnError(f"--dataset {name}: --input-key and --target-key do not apply; its files say what is what")
    if scheme in PUBLISHED and not rest:
        return PUBLISHED[scheme].open(data_dir, split)
    if scheme == "hfds" and rest:
        return open_hfds(rest, data_dir, split, input_key, target_key)
    if scheme == "wds":
        return StreamSource(data_dir, split, input_key, target_key)
    if scheme == "torch" and rest and name.lower() not in _FOLDER_NAMES:
        return _open_torch(rest, data_dir, split, download)
    if name.lower() in _FOLDER_NAMES:
        if not data_dir:
            raise BurnError(f"--dataset {name or chr(39) * 2}: name the folder of images by --data-dir")
    elif not data_dir and os.path.exists(os.path.expanduser(name)):
        data_dir = os.path.expanduser(name)
    else:
        raise BurnError(f"--dataset {name}: unknown; choose from {_SCHEMES}")
    if target_key:
        raise BurnError("--target-key does not apply to a folder of images: the classes are its subfolders")
    return open_folder(data_dir, split, input_key)


def mirror_probability(name: str) -> float:
    """How often views of the dataset `name` (as in `open_dataset`) show the mirror image: never where the name itself
    says that it is handwriting (`hfds/mnist` is any files in a folder), else half of the time."""
    return 0.0 if name.strip().lower().rstrip("/") in (*_DIGITS, *_WRITTEN) else 0.5


class _TorchImages(Store):
    """Images of a torchvision dataset that has them in memory: CIFAR, MNIST and its likes."""

    def __init__(self, dataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def image(self, index: int) -> Image.Image:
        return self._dataset[index][0].convert("RGB")

    def identities(self):
        return (f"{self._dataset.train} {index}" for index in range(len(self)))

    def listing(self):
        return (np.ascontiguousarray(self._dataset.data).tobytes(),)


def _open_torch(kind: str, root: str | None, split: str, download: bool) -> ImageSource:
    if not root:
        raise BurnError(f"--dataset torch/{kind}: name the folder of the files by --data-dir")
    if kind.lower() in _TRAIN_OR_TEST and split not in sum(SPLIT_SYNONYMS, ()):
        raise NoSplitError(f"--dataset torch/{kind}: no split {split!r}; available: train, test (or validation)")
    if "/" in split:  # timm's for INaturalist's families, orders, ...
        raise NoSplitError(f"--dataset torch/{kind}: no split {split!r}; the classes are those of its folders")
    try:
        dataset = create_dataset(f"torch/{kind}", root=root, split=split, download=download)
    except Exception as error:
        told = NoSplitError if "for argument split" in str(error) else BurnError  # as torchvision words it
        raise told(f"--dataset torch/{kind} in {root}: {one_line(error)}") from error
    names = getattr(dataset, "classes", None) or getattr(dataset, "all_categories", None)
    names = [name if isinstance(name, str) else ", ".join(name) for name in names] if names else None
    if hasattr(dataset, "imgs"):  # ImageNet, Places365; torchvision's loader has another idea of RGB
        store: Store = Files(dataset.root, [os.path.relpath(path, dataset.root) for path, _ in dataset.imgs])
    elif hasattr(dataset, "index"):  # INaturalist, in the file system's order
        dataset.index.sort()
        store = Files(dataset.root, [os.path.join(dataset.all_categories[kind], name) for kind, name in dataset.index])
    else:
        store = _TorchImages(dataset)
    return ImageSource(store, f"torch/{kind} {shown_path(root)} [{split}]", compat.torchvision_targets(dataset), names)


def _expanded(text: str, option: str) -> str:
    expanded = os.path.expandvars(text)
    left = re.search(r"\$\{?(\w+)", expanded)
    if left and left.group(1) not in os.environ:
        raise BurnError(f"{option} {text}: the environment variable {left.group(1)} is not set")
    return expanded
