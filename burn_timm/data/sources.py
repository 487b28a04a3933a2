"""`ImageSource`: images by index, whatever they are stored in."""

import copy
import os
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from burn_timm.data.cache import PixelCache, open_cache, shrunk
from burn_timm.errors import BurnError


class Images(Protocol):
    """What an `ImageSource` reads from; `class_names` and `num_classes` are None where there are no labels.

    One that also has a `label_matrix` (see `ImageSource`) reads the image's own index in place of a class. `labels()`,
    `identities()` (a name for each image that no other image of any split has) and `listing()` (what tells this
    dataset from others like it, to be had without reading) are optional, and may give None.
    """

    class_names: list[str] | None
    num_classes: int | None

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Decode image `index`; errors propagate."""

    def name(self, index: int) -> str: ...


class ImageSource:
    """A dataset of images with random access, picklable for loader workers.

    Attributes: `num_classes` (int, or None if unlabelled), `class_names` (list of str, or None), `labelled` (every
    image has one class), `streaming` (False), `description` (name, split and count, without paths of this machine),
    `multi_label`, `label_matrix`.

    Where an image may show several classes (VOC2007), `multi_label` is true and `label_matrix` is int8 numpy [N, C]: 1
    for a class that is there, -1 for one that is not, 0 for one that is "difficult"; None for all other sets. There is
    then no class of an image: `labelled` is false, and the target that `load` and the loaders give is the image's row,
    so that `label_matrix[targets]` are the labels of a batch, in whatever order and with whatever left out.

    Decoded images of one small size that fit in 512 MB together (such as CIFAR) are kept in memory after they were
    first read; `cache=False` switches this off, and `cached` gives other choices.
    """

    streaming = False

    def __init__(self, images: Images, title: str, cache: bool = True) -> None:
        self._images = images
        self.class_names = images.class_names
        self.num_classes = images.num_classes
        self.label_matrix = getattr(images, "label_matrix", None)
        self.multi_label = self.label_matrix is not None
        self.labelled = images.num_classes is not None and not self.multi_label
        classes = ", unlabelled" if images.num_classes is None else f", {self.num_classes} classes"
        classes += ", multi-label" if self.multi_label else ""
        self.description = f"{title}, {len(images):,} images{classes}"
        self._title = title
        self._cache = self._make_cache() if cache else None
        self._side = None  # of images that are given smaller than they are

    def __len__(self) -> int:
        return len(self._images)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Image `index` as PIL RGB and its class: -1 if it has none, `index` if it has several (the row of
        `label_matrix`). Raises what the decoder raises."""
        kept = self._cache.get(index) if self._cache is not None else None
        if kept is not None:
            return Image.fromarray(kept[0]), kept[1]
        image, target = self._images.read(index)
        if self._side is not None:
            image = shrunk(image, self._side)
        if self._cache is not None:
            self._cache.put(index, np.asarray(image), target)
        return image, target

    def cached(self, kind: str, side: int | None = None, folder: str | None = None) -> "ImageSource":
        """The same images with another cache: `auto` (as it is), `off`, `memory`, or `disk` for a file in `folder`
        (default: ~/.cache/burn_timm) that later runs use too.

        With `side` (for `memory` and `disk`) images are kept, and given, with their shorter side reduced to so many
        pixels; without it they must be of one size. Raises BurnError in one line, for too little space too.
        """
        if kind == "auto":
            return self
        other = copy.copy(self)
        other._cache, other._side = None, side
        if kind != "off":
            other._cache = open_cache(kind, other, side, folder)
        return other

    def listing(self) -> list | None:
        """What tells this dataset from others like it, without reading an image; None if there is no such thing."""
        return getattr(self._images, "listing", lambda: None)()

    def name(self, index: int) -> str:
        """The file name (or row) of image `index` with the dataset's, for messages."""
        return f"{self._images.name(index)} (image {index} of {self._title})"

    def file_name(self, index: int) -> str:
        """The file name (or row) of image `index` alone."""
        return self._images.name(index)

    def shared(self, other: "ImageSource") -> int:
        """How many images of `other` are images of this source too, as far as files and names of splits tell."""
        if self._title == other._title:
            return len(other)
        ours, theirs = (getattr(source._images, "identities", lambda: None)() for source in (self, other))
        if ours is None or theirs is None:
            return 0
        theirs = set(theirs)
        return len(theirs.intersection(ours))

    def labels(self) -> np.ndarray:
        """The class of every image, int64 [N], from the dataset's own list where it has one, else by reading each.

        Raises BurnError for an image that cannot be read where reading is needed.
        """
        read_labels = getattr(self._images, "labels", None)
        known = read_labels() if read_labels is not None else None
        if known is not None:
            return np.asarray(known, dtype=np.int64)
        labels = np.empty(len(self), dtype=np.int64)
        for index in range(len(self)):
            try:
                labels[index] = self.load(index)[1]
            except Exception as error:
                raise BurnError(f"{self.name(index)}: cannot be read, and its class is needed ({error})") from error
        return labels

    def _make_cache(self) -> PixelCache | None:
        """A cache if the first, middle and last image are of one size and so many of that size fit."""
        sizes = set()
        for index in {0, len(self) // 2, len(self) - 1}:
            try:
                image, _ = self._images.read(index)
            except Exception:  # an unreadable image is the training loop's business
                continue
            sizes.add((image.height, image.width))
            if not PixelCache.fits(len(self), image.height, image.width):
                return None
        return PixelCache(len(self), *sizes.pop()) if len(sizes) == 1 else None


class TimmImages:
    """Images behind a timm `ImageDataset`, read through its reader: timm's own loop would replace a broken image by
    another one without telling us."""

    def __init__(self, reader, class_names: list[str] | None, num_classes: int | None) -> None:
        self.reader = reader
        self.class_names = class_names
        self.num_classes = num_classes

    def __len__(self) -> int:
        return len(self.reader)

    def read(self, index: int) -> tuple[Image.Image, int]:
        stream, target = self.reader[index][:2]
        with stream:
            image = Image.open(stream).convert("RGB")
        return image, -1 if self.num_classes is None or target is None else int(target)

    def labels(self) -> list[int] | None:
        samples = getattr(self.reader, "samples", None)  # of folders and tars: (file, class)
        if isinstance(samples, list):
            return [sample[1] for sample in samples]
        dataset, column = getattr(self.reader, "dataset", None), getattr(self.reader, "label_key", None)
        if hasattr(dataset, "select_columns") and column:  # hfds
            return [-1 if label is None else label for label in dataset.select_columns(column)[:][column]]
        return None

    def listing(self) -> list:
        samples = getattr(self.reader, "samples", None)  # of folders: (file, class)
        if isinstance(samples, list):
            return samples
        return [str(getattr(self.reader, "root", None)), getattr(self.reader, "label_key", None)]

    def identities(self) -> Iterable[str] | None:
        root, samples = getattr(self.reader, "root", None), getattr(self.reader, "samples", None)
        if isinstance(samples, list):
            return (os.path.realpath(sample[0]) for sample in samples)
        if isinstance(root, str) and os.path.isfile(root):  # a tar has no splits
            return (f"{os.path.realpath(root)} {index}" for index in range(len(self)))
        return None

    def name(self, index: int) -> str:
        try:
            return str(self.reader.filename(index) or f"row {index}")
        except Exception:  # naming a broken image must not hide why we name it
            return f"row {index}"


class TorchImages:
    """Images of a torchvision dataset, (PIL image, class) by index."""

    def __init__(self, dataset, class_names: list[str] | None, num_classes: int | None) -> None:
        self.dataset = dataset
        self.class_names = class_names
        self.num_classes = num_classes

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> tuple[Image.Image, int]:
        image, target = self.dataset[index]
        return image.convert("RGB"), -1 if self.num_classes is None else int(target)

    def labels(self) -> list[int] | None:
        for name in ("targets", "labels", "_labels", "_targets"):  # torchvision has no one name
            known = getattr(self.dataset, name, None)
            if known is not None and len(known) == len(self):
                return [int(label) for label in known]
        return None

    def listing(self) -> list | None:
        return getattr(self.dataset, "samples", None)

    def identities(self) -> Iterable[str] | None:
        samples, train = getattr(self.dataset, "samples", None), getattr(self.dataset, "train", None)
        if samples:
            return (os.path.realpath(sample[0]) for sample in samples)
        return None if train is None else (f"{train} {index}" for index in range(len(self)))

    def name(self, index: int) -> str:
        samples = getattr(self.dataset, "samples", None)  # ImageFolder, ImageNet: (path, class)
        return os.path.basename(samples[index][0]) if samples else f"row {index}"


class ArrayImages:
    """Images in an array uint8 [N, H, W] (grey) or [N, H, W, 3], with classes [N]."""

    def __init__(self, pixels: np.ndarray, targets: np.ndarray, class_names: list[str]) -> None:
        self.pixels = pixels
        self.targets = targets
        self.class_names = class_names
        self.num_classes = len(class_names)

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.pixels[index]).convert("RGB"), int(self.targets[index])

    def labels(self) -> np.ndarray:
        return self.targets

    def name(self, index: int) -> str:
        return f"row {index}"


class Subset:
    """Some images of a source."""

    def __init__(self, source: ImageSource, indices: list[int]) -> None:
        self.source, self.indices = source, indices
        self.class_names, self.num_classes = source.class_names, source.num_classes
        self.label_matrix = source.label_matrix[indices] if source.multi_label else None

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> tuple[Image.Image, int]:
        image, target = self.source.load(self.indices[index])
        return image, target if self.label_matrix is None else index

    def labels(self) -> np.ndarray:
        return self.source.labels()[self.indices]

    def name(self, index: int) -> str:
        return self.source.file_name(self.indices[index])


def random_subset(source: ImageSource, count: int, seed: int) -> ImageSource:
    """`count` images drawn with `seed`, in the source's own order (the first ones of a folder would be one class)."""
    chosen = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[:count]
    return ImageSource(Subset(source, chosen.sort().values.tolist()), f"{count} of {source.description}", cache=False)


def public_path(path: str) -> str:
    """`path` as it may be published: below $BURN_DATA by that name, other paths by their last part only."""
    root = os.environ.get("BURN_DATA")
    full = os.path.abspath(os.path.expanduser(path))
    if root and (full + os.sep).startswith(os.path.abspath(root) + os.sep):
        below = os.path.relpath(full, os.path.abspath(root))
        return "$BURN_DATA" if below == "." else f"$BURN_DATA/{below}"
    return os.path.basename(full)
