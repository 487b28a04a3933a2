"""`wds/...`: WebDataset shards, read as a stream through timm's iterable dataset."""

import itertools
import os
import tarfile
from collections.abc import Iterator

from PIL import Image
from timm.data import create_dataset

from burn_timm.data.sources import public_path
from burn_timm.errors import BurnError, NoSplitError


class StreamSource:
    """A dataset that can only be read from front to back.

    Iterating gives one pass in shard order, (PIL RGB image, class or -1); `training_dataset` gives timm's shuffled
    one. timm leaves out an image that cannot be read, with a warning in its log: those are not counted by `CorruptLog`.

    Attributes: `streaming` (True), `labelled`, `num_classes` and `class_names` (None: a stream does not tell),
    `multi_label` (False) and `label_matrix` (None), `description`, `shards` (their number). `len()` is the number of
    images the shards' index, or the split, claims.
    """

    streaming = True
    num_classes = None
    class_names = None
    multi_label = False
    label_matrix = None

    def __init__(self, root: str, split: str, input_key: str | None = None, target_key: str | None = None) -> None:
        self._arguments = dict(root=root, split=split, input_key=input_key, target_key=target_key)
        shown = f"wds {public_path(root)} [{split}]"
        try:
            info = self._open(is_training=True).reader.split_info
        except Exception as error:
            hint = "; name shards and their images as 'NAME-{0000..0009}.tar|10000', or write an _info.json"
            kind = NoSplitError if f"split {split} not found" in str(error) else BurnError
            raise kind(f"--dataset {shown}: {str(error).splitlines()[0].rstrip('.')}{hint}") from error
        self._count = info.num_samples
        self.shards = len(info.filenames)
        self.labelled = True
        first = os.path.join(root, info.filenames[0])
        if not _remote(first):
            for name in info.filenames:
                if not os.path.isfile(os.path.join(root, name)):
                    raise BurnError(f"--dataset {shown}: no file {name} in {root}")
            self.labelled = bool(target_key or info.alt_label) or _has_class(first, shown)
        self.description = f"{shown}, about {self._count:,} images{'' if self.labelled else ', unlabelled'}"

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        dataset = self._open(is_training=False)
        dataset.reader.dist_num_replicas = 1  # the whole set, in every process
        dataset.reader.dist_rank = 0
        yield from self.read(dataset)

    def cached(self, kind: str, side: int | None = None, folder: str | None = None) -> "StreamSource":
        """As `ImageSource.cached`; a stream has no places that could be kept."""
        if kind in ("memory", "disk"):
            raise BurnError(f"--cache {kind}: {self.description}: a stream cannot be cached")
        return self

    def training_dataset(self, *, batch_size: int, seed: int, rank: int, world_size: int, workers: int):
        """timm's shuffled iterable dataset for process `rank`: a part of the shards for each process and worker."""
        dataset = self._open(is_training=True, batch_size=batch_size, seed=seed)
        dataset.reader.dist_rank = rank
        dataset.reader.dist_num_replicas = world_size
        dataset.set_loader_cfg(num_workers=workers)
        return dataset

    def read(self, dataset) -> Iterator[tuple[Image.Image, int]]:
        """One pass over a dataset made by `training_dataset`; call it in the process that reads."""
        reader = dataset.reader
        if not self.labelled and reader.ds is None:
            # timm's decoder drops samples without a class, so give them one, just before it. It builds the pipeline at
            # the first pass; the last two stages are its decoder and a renaming.
            import webdataset

            reader._lazy_init()
            reader.ds.pipeline.insert(-2, webdataset.map(_with_no_class))
        yield from dataset

    def _open(self, is_training: bool, batch_size: int = 1, seed: int = 0):
        return create_dataset(
            "wds/stream", is_training=is_training, batch_size=batch_size, seed=seed, **self._arguments
        )


def open_wds(root: str | None, split: str, input_key: str | None, target_key: str | None) -> StreamSource:
    """Open WebDataset shards below `root` (a folder or a URL); `split` as timm spells it.

    Raises BurnError for a missing package, folder, shard or split, and where the number of images is not known.
    """
    try:
        import webdataset  # noqa: F401
    except ImportError as error:
        raise BurnError("--dataset wds/... needs the package webdataset: pip install webdataset") from error
    if not root:
        raise BurnError("--dataset wds/...: name the folder (or URL) of the shards by --data-dir")
    if not _remote(root) and not os.path.isdir(root):
        raise BurnError(f"--data-dir {root}: no such folder")
    return StreamSource(root, split, input_key, target_key)


def _remote(path: str) -> bool:
    return "://" in path or path.startswith("pipe:")


def _has_class(shard: str, shown: str) -> bool:
    """Whether the first sample of a shard comes with a `.cls` file."""
    try:
        with tarfile.open(shard) as archive:
            files = (member.name for member in archive if member.isfile())
            first = next(itertools.groupby(files, key=lambda name: name.split(".", 1)[0]), None)
            return first is not None and any(name.endswith(".cls") for name in first[1])
    except (OSError, tarfile.TarError) as error:
        raise BurnError(f"--dataset {shown}: {os.path.basename(shard)} is not a readable tar file") from error


def _with_no_class(sample: dict) -> dict:
    return {**sample, "cls": b"-1"}
