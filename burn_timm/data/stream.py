"""`wds/...`: WebDataset shards, read as a stream through timm's iterable dataset."""

import hashlib
import io
import itertools
import json
import os
import tarfile
from collections.abc import Iterator
from functools import partial

from PIL import Image
from timm.data import create_dataset

from burn_timm import compat
from burn_timm.data.decode import decode
from burn_timm.data.sources import file_stat, shown_path
from burn_timm.errors import BurnError, NoSplitError, one_line, require_package

_IMAGES = "jpg;jpeg;png;webp;tif;tiff;bmp;ppm"


class StreamSource:
    """A dataset that can only be read from front to back: the shards below `root` (a folder or a URL); `split` as timm
    spells it.

    Iterating gives one pass in shard order, (PIL RGB image, class or -1); `training_dataset` gives timm's shuffled
    one. timm leaves out an image that cannot be read, with a warning in its log: those are not counted by `CorruptLog`.
    A stream is labelled, or not, throughout, as its first sample is; a `target_key` of '' reads it without labels.
    `len()` is the number of images the shards' index, or the split, claims.

    Raises BurnError for a missing package, folder, shard or split, and where the number of images is not known.
    """

    streaming = True
    num_classes = None
    class_names = None
    multi_label = False
    label_matrix = None

    def __init__(self, root: str | None, split: str, input_key: str | None, target_key: str | None) -> None:
        require_package("webdataset", "wds", "--dataset wds/...")
        if not root:
            raise BurnError("--dataset wds/...: name the folder (or URL) of the shards by --data-dir")
        if not _remote(root) and not os.path.isdir(root):
            raise BurnError(f"--data-dir {root}: no such folder")
        self._arguments = dict(root=root, split=split)
        shown = f"wds {shown_path(root)} [{split}]"
        try:
            info = compat.wds_split(self._open(is_training=True))
        except Exception as error:
            hint = "; name shards and their images as 'NAME-{0000..0009}.tar|10000', or write an _info.json"
            kind = NoSplitError if f"split {split} not found" in str(error) else BurnError
            raise kind(f"--dataset {shown}: {one_line(error).rstrip('.')}{hint}") from error
        self._count = info.num_samples
        self._files = list(info.filenames)
        self.shards = len(self._files)
        self._input_keys = tuple((input_key or _IMAGES).split(";"))
        self._target_key = target_key or info.alt_label or None
        self.labelled = target_key != ""
        first = os.path.join(root, info.filenames[0])
        if not _remote(first):
            for name in info.filenames:
                if not os.path.isfile(os.path.join(root, name)):
                    raise BurnError(f"--dataset {shown}: no file {name} in {root}")
            self.labelled &= self._target_key is not None or _has_class(first, shown)
        self.description = f"{shown}, about {self._count:,} images{'' if self.labelled else ', unlabelled'}"

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        dataset = self._open(is_training=False)
        compat.wds_share(dataset, 0, 1)  # the whole set, in every process
        yield from self.read(dataset)

    def cached(self, kind: str, side: int | None = None, folder: str | None = None) -> "StreamSource":
        """As `ImageSource.cached`; a stream has no places that could be kept."""
        if kind in ("memory", "disk"):
            raise BurnError(f"--cache {kind}: {self.description}: a stream cannot be cached")
        return self

    def require_labels(self, what: str) -> None:
        """Raise BurnError, which `what` opens, where the stream has no labels."""
        if not self.labelled:
            raise BurnError(f"{what}: needs labels, and {self.description} has none")

    def shared(self, other: "StreamSource") -> int:
        """How many images of `other` are in shards of this stream too, which lies in the same folder."""
        return len(other) * len(set(self._files).intersection(other._files)) // other.shards

    def listing_hash(self) -> str:
        """SHA-256 of the names of the shards and, where they lie on this machine, of their sizes."""
        paths = [os.path.join(self._arguments["root"], name) for name in self._files]
        sizes = [None if _remote(path) else file_stat(path, "st_size") for path in paths]
        return hashlib.sha256(json.dumps([self._count, self._files, sizes]).encode()).hexdigest()

    def training_dataset(self, *, batch_size: int, seed: int, rank: int, world_size: int, workers: int):
        """timm's shuffled iterable dataset for process `rank`: a part of the shards for each process and worker."""
        dataset = self._open(is_training=True, batch_size=batch_size, seed=seed)
        compat.wds_share(dataset, rank, world_size)
        dataset.set_loader_cfg(num_workers=workers)
        return dataset

    def read(self, dataset) -> Iterator[tuple[Image.Image, int]]:
        """One pass over a dataset made by `training_dataset`; call it in the process that reads.

        Raises BurnError where a labelled stream has a sample without a class.
        """
        compat.wds_decoder(dataset, partial(_decoded, self._input_keys, self._target_key))
        for image, (target, key) in dataset:
            if not self.labelled:
                target = -1
            elif not isinstance(target, int) or target < 0:
                raise BurnError(
                    f"{self.description}: sample {key} has the class {target!r}, expected an integer from 0; correct "
                    "it, or read the stream without labels (--target-key '')"
                )
            yield image, target

    def _open(self, is_training: bool, batch_size: int = 1, seed: int = 0):
        return create_dataset(
            "wds/stream", is_training=is_training, batch_size=batch_size, seed=seed, **self._arguments
        )


def _remote(path: str) -> bool:
    return "://" in path or path.startswith("pipe:")


def _has_class(shard: str, shown: str) -> bool:
    """Whether the first sample of a shard comes with a `.cls` file that is not negative."""
    try:
        with tarfile.open(shard) as archive:
            files = (member for member in archive if member.isfile())
            first = next(itertools.groupby(files, key=lambda file: file.name.split(".", 1)[0]), (None, ()))[1]
            classes = [archive.extractfile(file).read() for file in first if file.name.endswith(".cls")]
    except (OSError, tarfile.TarError) as error:
        raise BurnError(f"--dataset {shown}: {os.path.basename(shard)} is not a readable tar file") from error
    return bool(classes) and not classes[0].strip().startswith(b"-")


def _decoded(input_keys: tuple[str, ...], target_key: str | None, sample: dict) -> dict:
    """What timm's reader passes on: `image`, and as `target` the class as it is stored with the sample's name."""
    stored = next(sample[key] for key in input_keys if key in sample)
    try:
        target = json.loads(sample["json"])[target_key] if target_key else int(sample["cls"])
    except (KeyError, TypeError, ValueError):
        target = sample.get("cls")
    return {"image": decode(io.BytesIO(stored)), "target": (target, sample["__key__"])}
