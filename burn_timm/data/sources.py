"""`ImageSource`: images by index, each with its class, whatever they are stored in."""

import copy
import functools
import hashlib
import logging
import os
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image

from burn_timm.data.cache import open_cache, reduced, small_cache
from burn_timm.data.decode import decode
from burn_timm.errors import BurnError, one_line
from burn_timm.provenance import redact

_logger = logging.getLogger(__name__)


class Store:
    """Where the images of a source come from. A subclass defines `__len__`, `image` and `name`; it can be pickled."""

    def image(self, index: int) -> Image.Image:
        """Image `index` as PIL RGB; errors of the decoder propagate."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """The name of image `index`, for messages."""
        return f"row {index}"

    def identities(self) -> Iterable[str] | None:
        """A name for each image that no other image of any split has; None where there is no such thing."""
        return None

    def listing(self) -> Iterable[bytes]:
        """What tells these images from others without reading them: names and sizes, without the folder's place."""
        return ()

    def changed(self) -> Iterable[int]:
        """When each file was changed last, in ns, where there are files. Not in `listing`: a copy may differ in it."""
        return ()


class Files(Store):
    """Image files below the folder `root`."""

    def __init__(self, root: str, paths: Sequence[str]) -> None:
        self.root = root
        # An array of bytes, not 2.4 million str: a fifth of the memory, and forked workers do not copy it.
        self._paths = np.array([os.fsencode(path) for path in paths])

    def __len__(self) -> int:
        return len(self._paths)

    def image(self, index: int) -> Image.Image:
        return decode(os.path.join(self.root, self.name(index)))

    def name(self, index: int) -> str:
        return os.fsdecode(self._paths[index])

    def identities(self) -> Iterable[str]:
        real_folder = functools.cache(os.path.realpath)
        for path in (os.path.join(self.root, self.name(index)) for index in range(len(self))):
            folder, name = os.path.split(path)
            yield os.path.realpath(path) if os.path.islink(path) else os.path.join(real_folder(folder), name)

    def listing(self) -> Iterable[bytes]:
        return (b"%s %d" % (name, file_stat(path, "st_size")) for name, path in self._places())

    def changed(self) -> Iterable[int]:
        return (file_stat(path, "st_mtime_ns") for _, path in self._places())

    def _places(self) -> Iterable[tuple[bytes, bytes]]:
        root = os.fsencode(self.root)
        return ((name, os.path.join(root, name)) for name in self._paths.tolist())


class ImageSource:
    """A dataset of images with random access, picklable for loader workers.

    Args:
        title: Name and split, without paths of this machine; `description` has counts as well.
        targets: The class of each image, [N]; -1 for an image without one; None where none has one. `labelled` says
            that every image has one, `num_classes` is None where none has.
        num_classes: Where there are more classes than `class_names` or `targets` tell.
        label_matrix: int8 [N, C] in place of `targets` where an image may show several classes (VOC2007): 1 for a class
            that is there, -1 for one that is not, 0 for one that is "difficult". `multi_label` is then true, `labelled`
            false, and the target that `load` and the loaders give is the image's row of the matrix.
        cache: Keep decoded images in memory where they are of one small size and take at most 512 MB together.

    Raises:
        BurnError: A class is out of range.
    """

    streaming = False

    def __init__(
        self, store: Store, title: str, targets: Sequence[int] | np.ndarray | None = None,
        class_names: list[str] | None = None, num_classes: int | None = None, label_matrix: np.ndarray | None = None,
        cache: bool = True,
    ) -> None:
        self._store, self._title = store, title
        self.label_matrix, self.multi_label = label_matrix, label_matrix is not None
        targets = np.arange(len(store)) if self.multi_label else targets
        self._targets = np.full(len(store), -1) if targets is None else np.asarray(targets, dtype=np.int64)
        without = int((self._targets < 0).sum())
        if without == len(store):  # -1 throughout is how a test split without labels is stored
            class_names = num_classes = None
            self._targets = np.full(len(store), -1)
        elif num_classes is None:
            num_classes = len(class_names) if class_names else int(self._targets.max()) + 1
        self.class_names, self.num_classes = class_names, num_classes
        self.labelled = not self.multi_label and num_classes is not None and without == 0
        self.description = f"{title}, {len(store):,} images"
        self.description += ", unlabelled" if num_classes is None else f", {num_classes} classes"
        self.description += ", multi-label" if self.multi_label else ""
        self.description += f", {without:,} images without a label" if num_classes and without else ""
        self._side = None  # of images that are given smaller than they are
        self._cache = None
        if not self.multi_label:
            self._check_range(num_classes or 0)
        if cache:
            self._cache = small_cache(self)

    def _check_range(self, classes: int) -> None:
        wrong = np.flatnonzero((self._targets < -1) | (self._targets >= classes)).tolist()
        if wrong:
            raise BurnError(
                f"{self.name(wrong[0])}: class {self._targets[wrong[0]]}, expected 0 to {classes - 1} (-1 without a "
                f"label); so {len(wrong):,} of {len(self):,} images; correct them, or take the images without labels "
                "(--target-key '')"
            )

    def __len__(self) -> int:
        return len(self._store)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Image `index` as PIL RGB and its class: -1 if it has none, `index` if it has several (the row of
        `label_matrix`). Raises what the decoder raises."""
        target = int(self._targets[index])
        kept = self._cache.get(index) if self._cache is not None else None
        if kept is not None:
            return Image.fromarray(kept), target
        image = self._store.image(index)
        if self._side is not None:
            image = reduced(image, self._side)
        if self._cache is not None:
            self._cache.put(index, np.asarray(image))
        return image, target

    def readable(self, index: int) -> tuple[Image.Image, int] | None:
        """As `load`; None for an image that cannot be read."""
        try:
            return self.load(index)
        except (BurnError, MemoryError):
            raise
        except Exception:  # decoders raise whatever they like: OSError, SyntaxError, struct.error, ...
            return None

    def cached(self, kind: str, side: int | None = None, folder: str | None = None) -> "ImageSource":
        """The same images with another cache: `auto` (as it is), `off`, or one of `open_cache`.

        With `side` images are kept, and given, with their shorter side reduced to so many pixels.
        """
        if kind == "auto":
            return self
        other = copy.copy(self)
        other._cache, other._side = None, side
        if kind != "off":
            other._cache = open_cache(kind, other, side, folder)
        return other

    def subset(self, indices: Sequence[int]) -> "ImageSource":
        """The images at `indices`, with the classes of this source."""
        indices = list(indices)
        return ImageSource(
            _Part(self, indices), f"{len(indices)} of {self.description}", self._targets[indices], self.class_names,
            self.num_classes, self.label_matrix[indices] if self.multi_label else None, cache=False,
        )

    def numbered(self) -> "ImageSource":
        """The same images, each with its own number in the place of its class: of a loader that leaves out what cannot
        be read, the targets then tell which images they are."""
        other = copy.copy(self)
        other._targets = np.arange(len(self))
        return other

    def identities(self) -> Iterable[str] | None:
        """A name for each image that no other image of any split has; None where there is no such thing."""
        return self._store.identities()

    def listing_hash(self) -> str:
        """SHA-256 of the names and sizes of the images, as far as they are known without reading them, and of labels.

        The same wherever the folder of the data lies.
        """
        digest = hashlib.sha256(b"\n".join((b"%d" % len(self), self._targets.astype("<i8").tobytes())))
        for entry in self._store.listing():
            digest.update(entry + b"\n")
        return digest.hexdigest()

    def changed(self) -> Iterable[int]:
        """When each file was changed last, in ns, where there are files."""
        return self._store.changed()

    def name(self, index: int) -> str:
        """The file name (or row) of image `index` with the dataset's, on one line, for messages."""
        return f"{one_line(self.file_name(index))} (image {index} of {self._title})"

    def file_name(self, index: int) -> str:
        """The file name (or row) of image `index` alone."""
        return self._store.name(index)

    def why_unreadable(self, index: int) -> str:
        """Why image `index` cannot be read, in one line."""
        try:
            self.load(index)
        except Exception as error:  # decoders raise whatever they like
            return redact(one_line(error))
        return "a second trial read it"

    def shared(self, other: "ImageSource") -> int:
        """How many images of `other` are images of this source too, as far as files and names of splits tell."""
        if self._title == other._title:
            return len(other)
        ours, theirs = self.identities(), other.identities()
        return 0 if ours is None or theirs is None else len(set(theirs).intersection(ours))

    def require_labels(self, what: str) -> None:
        """Raise BurnError, which `what` opens, unless every image has one class."""
        if self.multi_label:
            raise BurnError(f"{what}: needs one class an image; {self.description}")
        if not self.labelled:
            without = int((self._targets < 0).sum())
            folders = " (a folder of images has labels where it has two or more folders of classes)"
            raise BurnError(f"{what}: needs labels, and {without:,} of {len(self):,} images of {self._title} have none"
                            + (folders if without == len(self) else ""))

    def labels(self) -> np.ndarray:
        """The class of every image, int64 [N]. Raises BurnError unless every image has one."""
        self.require_labels("the classes of all images")
        return self._targets.copy()

    def classes_present(self) -> np.ndarray:
        """The classes that have an image, sorted."""
        return np.unique(self._targets[self._targets >= 0])


class _Part(Store):
    """Some images of a source."""

    def __init__(self, source: ImageSource, indices: list[int]) -> None:
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        return len(self._indices)

    def image(self, index: int) -> Image.Image:
        return self._source.load(self._indices[index])[0]

    def name(self, index: int) -> str:
        return self._source.file_name(self._indices[index])

    def listing(self) -> Iterable[bytes]:
        yield self._source.listing_hash().encode()
        yield np.array(self._indices, dtype="<i8").tobytes()

    def changed(self) -> Iterable[int]:
        return self._source.changed()


def random_subset(source: ImageSource, count: int, seed: int) -> ImageSource:
    """`count` images drawn with `seed`, in the source's own order (the first ones of a folder would be one class)."""
    chosen = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[:count]
    return source.subset(chosen.sort().values.tolist())


def align(test: ImageSource, train: ImageSource) -> ImageSource:
    """The test source with its classes numbered as the training source numbers them, by name.

    Sources without names of classes stay as they are, and so do streams and sets with several labels an image. Training
    classes without a test image are told in one warning.

    Raises:
        BurnError: Images of the test source have a class that the training source does not list.
    """
    if not train.class_names or not test.class_names or test.multi_label:
        return test
    place = {name: number for number, name in enumerate(train.class_names)}
    present = test.classes_present().tolist()
    if test.class_names != train.class_names:
        unknown = [test.class_names[number] for number in present if test.class_names[number] not in place]
        if unknown:
            raise BurnError(
                f"{test.description}: {_some(unknown)} not among the {len(place)} classes of {train.description}; "
                "expected splits of the same classes"
            )
        if len(place) < len(train.class_names):
            raise BurnError(f"{train.description}: several classes have the same name; rename them to tell them apart")
        numbers = np.array([place.get(name, -1) for name in test.class_names])
        aligned = copy.copy(test)
        aligned._targets = np.where(test._targets < 0, -1, numbers[test._targets])
        aligned.class_names, aligned.num_classes = train.class_names, train.num_classes
        test = aligned
    absent = np.setdiff1d(train.classes_present(), test.classes_present())
    if len(absent):
        _logger.warning(
            "%s: no image of %s, which %s has", test.description, _some([train.class_names[i] for i in absent]),
            train.description,
        )
    return test


def _some(names: list[str]) -> str:
    kind = "class" if len(names) == 1 else f"{len(names)} classes:"
    return f"{kind} {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


def file_stat(path: str | bytes, entry: str) -> int:
    """`st_size` or another entry of os.stat, -1 where there is no such file."""
    try:
        return getattr(os.stat(path), entry)
    except OSError:
        return -1


def shown_path(path: str) -> str:
    """`path` as it may be published: below $BURN_DATA by that name, other paths by their last part only."""
    shown = redact(os.path.abspath(os.path.expanduser(path)))
    return shown if shown.startswith("$BURN_DATA") else os.path.basename(shown)
