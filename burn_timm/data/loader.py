"""Loaders that can be entered at any step.

Nothing here has a state. The order of an epoch is a function of (seed, epoch); the views of a sample are a function of
(seed, epoch, index). So a checkpoint holds a step number, and the loader made from it gives the very tensors the
unbroken run would have got, with any number of workers.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate, get_worker_info

from burn_timm import compat
from burn_timm.data.corrupt import CorruptLog, check_corrupt
from burn_timm.data.sources import ImageSource
from burn_timm.data.stream import StreamSource
from burn_timm.data.views import View, collate_views, made_views
from burn_timm.errors import BurnError


def seed_for(*parts: int) -> int:
    """Mix integers into a seed in [0, 2**63): the first 8 bytes of BLAKE2b over their decimal text, top bit cleared.

    The same on every machine and version; (1, 23) and (12, 3) differ, and so do (1,) and (1, 0).
    """
    text = ",".join(str(int(part)) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def epoch_order(seed: int, epoch: int, n: int) -> torch.Tensor:
    """The order of the images in an epoch: a permutation of range(n), int64 [n], a pure function of its arguments."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed_for(seed, epoch)))


def micro_steps_per_epoch(n: int, batch_size: int, world_size: int) -> int:
    """How many whole micro-batches of `batch_size` images in each of `world_size` processes `n` images give.

    Raises BurnError if not even one.
    """
    steps = n // (batch_size * world_size)
    if steps == 0:
        raise BurnError(
            f"--batch-size {batch_size} x {world_size} process(es) needs {batch_size * world_size} images, "
            f"the dataset has {n}: lower --batch-size to at most {n // world_size}"
        )
    return steps


class ViewDataset(Dataset):
    """Augmented views of each image of an `ImageSource`, indexed by (epoch, index).

    Args:
        groups: The views of an image by their key in the batch; see `view_groups`.
        make: `made_views`, or `drawn_views` where `DeviceViews` makes the views of the batch, from the same draws.

    An item is a dict: what `make` gives (`views` uint8 [V, 3, H, W], ...), `target` int, and `corrupt` int64 [K] with
    the indices of all images that could not be read on the way to this item (K is 0 almost always). A corrupt image is
    replaced by the next readable one; the views stay seeded by the requested index. The caller's random state is left
    as it was. Raises BurnError when more than 1 % of the images, one after the other, cannot be read.
    """

    def __init__(
        self, source: ImageSource | StreamSource, groups: dict[str, list[View]], seed: int, make: Callable = made_views,
    ) -> None:
        self.source, self.groups, self.seed, self.make = source, groups, seed, make

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        return self.item(key[1], seed_for(self.seed, *key))

    def item(self, index: int, seed: int) -> dict:
        """Image `index` with the views that `seed` draws."""
        image, target, corrupt = self._readable(index)
        return self.item_of(image, target, seed, corrupt)

    def item_of(self, image: Image.Image, target: int, seed: int, corrupt: Sequence[int] = ()) -> dict:
        """The item of an image; torch's CPU generator ends as it was, CUDA's is untouched."""
        before = torch.default_generator.get_state()
        torch.default_generator.manual_seed(seed)
        try:
            views = self.make(self.groups, image)
        finally:
            torch.default_generator.set_state(before)
        return {**views, "target": target, "corrupt": torch.tensor(corrupt, dtype=torch.int64)}

    def _readable(self, index: int) -> tuple[Image.Image, int, list[int]]:
        corrupt: list[int] = []
        while True:
            at = (index + len(corrupt)) % len(self.source)
            found = self.source.readable(at)
            if found is not None:
                return *found, corrupt
            corrupt.append(at)
            check_corrupt(corrupt, len(self.source), self.source)


def make_train_loader(
    views: ViewDataset, *, batch_size: int, micro_steps_per_epoch: int, total_micro_steps: int, workers: int,
    start_micro_step: int = 0, rank: int = 0, world_size: int = 1, pin_memory: bool = False,
) -> Iterator[dict[str, torch.Tensor]]:
    """Micro-batches `start_micro_step` to `total_micro_steps` - 1 of a run, for process `rank` of `world_size`.

    Each holds the items of `views`, stacked, but `corrupt` joined (for `CorruptLog.add`). Micro-batch m of epoch e is
    `epoch_order(views.seed, e, n)[m * B * W : (m + 1) * B * W]`, of which process r takes its r-th slice of B: what W
    processes see together depends only on B * W.

    A `StreamSource` has no random access, so none of this holds for it: it goes round in timm's shuffled shard order,
    a share of the shards for each process and worker, and a resumed run sees other images than an unbroken one would.

    Raises BurnError (while iterating, too) when the images cannot be read, or a stream has fewer shards than processes.
    """
    source, dataset = views.source, views
    own_seed = seed_for(views.seed, start_micro_step, rank)
    if source.streaming:
        if source.shards < world_size:
            raise BurnError(f"{source.description}: {source.shards} shard(s), fewer than the {world_size} processes")
        workers = min(workers, source.shards // world_size)
        stream = source.training_dataset(
            batch_size=batch_size, seed=seed_for(views.seed), rank=rank, world_size=world_size, workers=workers
        )
        dataset = _StreamViews(views, stream, own_seed, start_micro_step // micro_steps_per_epoch)
        batches = {"batch_size": batch_size}
    else:
        steps = range(start_micro_step, total_micro_steps)
        batches = {"batch_sampler": _batches(
            len(source), batch_size, views.seed, rank, world_size, micro_steps_per_epoch, steps,
        )}
    loader = DataLoader(
        dataset, **batches, num_workers=workers, collate_fn=collate_views, pin_memory=pin_memory,
        # a generator of its own: without it, starting a loader draws from the caller's
        generator=torch.Generator().manual_seed(own_seed),
    )
    return batches_of(loader, max(0, total_micro_steps - start_micro_step))


def batches_of(loader: DataLoader, length: int | None = None) -> Iterator:
    """The first `length` batches; a worker's BurnError, which arrives with its traceback as text, as it was raised."""
    told = None
    try:
        yield from itertools.islice(loader, length)
    except BurnError as error:
        told = BurnError(str(error).strip().rsplit("BurnError: ", 1)[-1])
        # torch's frame refers to its own error; without this the workers wait for the garbage collector, which
        # closes their queues before it tells them to stop, and 5 s pass for each
        error.__traceback__ = None
    if told is not None:
        raise told


def eval_loader(
    source: ImageSource | StreamSource, transform: Callable[[Image.Image], torch.Tensor], batch_size: int = 256,
    workers: int = 0, limit: int | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (images [B, ...] as `transform` makes them, targets int64 [B]) in order, the first `limit` images only.

    A corrupt image is left out with a warning (a stream: timm's), so a batch may be smaller. Raises BurnError when more
    than 1 % are, or when there is no image at all. A stream is read in this process, whatever `workers` says.
    """
    if source.streaming:
        pairs = ((transform(image), target) for image, target in itertools.islice(source, limit))
        batches = iter(lambda: list(itertools.islice(pairs, batch_size)), [])
        yielded = 0
        for batch in batches:
            yielded += len(batch)
            yield tuple(default_collate(batch))
        if not yielded:
            raise BurnError(f"{source.description}: no image could be read")
        return
    total = len(source) if limit is None else min(limit, len(source))
    log = CorruptLog(total)
    loader = DataLoader(
        _Transformed(source, transform), batch_size=batch_size, sampler=range(total), num_workers=workers,
        collate_fn=_collate_readable, generator=torch.Generator(),
    )
    for batch, corrupt in loader:
        log.add(corrupt, source)
        if batch is not None:
            yield batch


def _batches(
    n: int, batch_size: int, seed: int, rank: int, world_size: int, per_epoch: int, steps: range
) -> Iterator[list[tuple[int, int]]]:
    """The (epoch, index) pairs of process `rank`, a list for each of the micro-steps."""
    epoch = order = None
    for step in steps:
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = epoch_order(seed, epoch, n)
        first = (step % per_epoch * world_size + rank) * batch_size
        yield [(epoch, index) for index in order[first : first + batch_size].tolist()]


class _StreamViews(IterableDataset):
    """Views of a stream without end; sample k of a worker is seeded by (seed, worker, k)."""

    def __init__(self, views: ViewDataset, stream, seed: int, first_epoch: int) -> None:
        self.views, self.stream, self.seed, self.first_epoch = views, stream, seed, first_epoch

    def __iter__(self) -> Iterator[dict]:
        worker = get_worker_info()
        worker_id = worker.id if worker else 0
        compat.wds_own_epoch(self.stream)
        count = 0
        for epoch in itertools.count(self.first_epoch):
            before = count
            self.stream.set_epoch(epoch)
            for image, target in self.views.source.read(self.stream):
                yield self.views.item_of(image, target, seed_for(self.seed, worker_id, count))
                count += 1
            if count == before:
                raise BurnError(f"{self.views.source.description}: no image could be read")


class _Transformed(Dataset):
    """(transformed image, target), or the index alone where the image cannot be read."""

    def __init__(self, source: ImageSource, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.source = source
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int] | int:
        found = self.source.readable(index)
        return index if found is None else (self.transform(found[0]), found[1])


def _collate_readable(items: list) -> tuple[tuple[torch.Tensor, torch.Tensor] | None, torch.Tensor]:
    corrupt = torch.tensor([item for item in items if isinstance(item, int)], dtype=torch.int64)
    readable = [item for item in items if not isinstance(item, int)]
    return (tuple(default_collate(readable)) if readable else None), corrupt
