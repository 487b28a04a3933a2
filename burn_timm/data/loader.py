"""Loaders that can be entered at any step.

Nothing here has a state. The order of an epoch is a function of (seed, epoch); the views of a sample are a function of
(seed, epoch, index). So a checkpoint holds a step number, and the loader made from it gives the very tensors the
unbroken run would have got, with any number of workers.
"""

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, default_collate, get_worker_info

from burn_timm.data.corrupt import CorruptLog, too_many, too_many_message
from burn_timm.data.datasets import ImageSource, StreamSource
from burn_timm.data.device_views import croppable, device_groups
from burn_timm.data.views import RandomView, View, Views, view_groups
from burn_timm.errors import BurnError

__all__ = [
    "CorruptLog",
    "ViewDataset",
    "epoch_order",
    "eval_loader",
    "make_train_loader",
    "micro_steps_per_epoch",
    "seed_for",
]

VIEWS_ON = ("workers", "device")


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
    """`n_views` augmented views of each image of an `ImageSource`, indexed by (epoch, index).

    An item is a dict: `views` uint8 [V, 3, H, W], with n_small_views also `small_views` uint8 [W, 3, h, w], `target`
    int, `corrupt` int64 [K] with the indices of all images that could not be read on the way to this item (K is 0
    almost always). A corrupt image is replaced by the next readable
    one; the views stay seeded by the requested index. The caller's random state is left as it was. Raises BurnError
    when more than 1 % of the images, one after the other, cannot be read.

    With `views_on="device"` the views are not made, only drawn: instead of `views` and `small_views` an item has
    `image` (PIL) and `drawn`, the list of `Drawn` of each.
    """

    def __init__(
        self, source: ImageSource, view: Views, n_views: int, seed: int, small_view: View | None = None,
        n_small_views: int = 0, views_on: str = "workers",
    ) -> None:
        self.source = source
        self.groups = view_groups(view, n_views, small_view, n_small_views)
        self.make = _MAKE[views_on]
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        return self.item(key[1], seed_for(self.seed, *key))

    def item(self, index: int, seed: int) -> dict:
        """Image `index` with the views that `seed` draws."""
        image, target, corrupt = self._readable(index)
        views = _seeded(self.make, self.groups, image, seed)
        return {**views, "target": target, "corrupt": torch.tensor(corrupt, dtype=torch.int64)}

    def _readable(self, index: int) -> tuple[Image.Image, int, list[int]]:
        corrupt: list[int] = []
        total = len(self.source)
        while True:
            at = (index + len(corrupt)) % total
            try:
                return *self.source.load(at), corrupt
            except (BurnError, MemoryError):
                raise
            except Exception:  # decoders raise whatever they like: OSError, SyntaxError, struct.error, ...
                corrupt.append(at)
            if too_many(len(corrupt), total):
                raise BurnError(too_many_message(corrupt, total, self.source))


def make_train_loader(
    source: ImageSource | StreamSource,
    view: Views,
    *,
    n_views: int,
    small_view: View | None = None,
    n_small_views: int = 0,
    batch_size: int,
    seed: int,
    rank: int,
    world_size: int,
    start_micro_step: int,
    micro_steps_per_epoch: int,
    total_micro_steps: int,
    workers: int,
    pin_memory: bool = False,
    views_on: str = "workers",
    teacher_cache=None,
) -> "TrainLoader":
    """Micro-batches `start_micro_step` to `total_micro_steps` - 1 of a run, for process `rank` of `world_size`.

    Each is a dict: `views` uint8 [B, V, 3, H, W], with n_small_views also `small_views` uint8 [B, W, 3, h, w], `target`
    int64 [B], `corrupt` int64 [K], the indices of images that could not be read (K may be 0; give it to
    `CorruptLog.add`). `view` makes all V views, or is a sequence of V, one for each. Micro-batch m of epoch e is
    `epoch_order(seed, e, n)[m * B * W : (m + 1) * B * W]`, of which process r takes its r-th slice of B: what W
    processes see together depends only on B * W. Workers live for the whole run, not for an epoch.

    With `views_on="device"` a batch holds what `DeviceViews` makes the views from, drawn by the same seeds; see
    `_collate_drawn`.

    With a `TeacherCache` the one view of each image is one of its fixed ones, and a batch has what the teacher said of
    it, `teacher` float16 [B, 1, D].

    A `StreamSource` has no random access, so none of this holds for it: it goes round in timm's shuffled shard order,
    a share of the shards for each process and worker, and a resumed run sees other images than an unbroken one would.
    The workers are as many as there are shards for. Batches are always full.

    Raises BurnError (while iterating, too) when the images cannot be read, or a stream has fewer shards than processes.
    """
    length = max(0, total_micro_steps - start_micro_step)
    collate = _collate
    if views_on == "device":
        collate = functools.partial(_collate_drawn, device_groups(view, n_views, small_view, n_small_views))
    options = dict(
        collate_fn=collate,
        pin_memory=pin_memory,
        # a generator of its own: without it, starting a loader draws from the caller's
        generator=torch.Generator().manual_seed(seed_for(seed, start_micro_step, rank)),
    )
    if source.streaming:
        if source.shards < world_size:
            raise BurnError(f"{source.description}: {source.shards} shard(s), fewer than the {world_size} processes")
        workers = min(workers, source.shards // world_size)
        epoch = start_micro_step // micro_steps_per_epoch
        stream = source.training_dataset(
            batch_size=batch_size, seed=seed_for(seed), rank=rank, world_size=world_size, workers=workers
        )
        groups = view_groups(view, n_views, small_view, n_small_views)
        dataset = _StreamViews(source, stream, groups, seed_for(seed, start_micro_step, rank), epoch, views_on)
        return TrainLoader(DataLoader(dataset, batch_size=batch_size, num_workers=workers, **options), length)
    steps = _Steps(
        len(source), batch_size, seed, rank, world_size, micro_steps_per_epoch, start_micro_step, total_micro_steps
    )
    if teacher_cache is not None:
        dataset = teacher_cache.dataset(source, view, seed)
    else:
        dataset = ViewDataset(source, view, n_views, seed, small_view, n_small_views, views_on)
    return TrainLoader(DataLoader(dataset, batch_sampler=steps, num_workers=workers, **options), length)


class TrainLoader:
    """What `make_train_loader` returns: iterate it once; `len()` is the number of micro-batches."""

    def __init__(self, loader: DataLoader, length: int) -> None:
        self._loader = loader
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        if self._length == 0:
            return
        told = None
        try:
            yield from itertools.islice(self._loader, self._length)
        except BurnError as error:
            told = _one_line(error)
            # torch's frame refers to its own error; without this the workers wait for the garbage collector, which
            # closes their queues before it tells them to stop, and 5 s pass for each
            error.__traceback__ = None
        if told is not None:
            raise told


def eval_loader(
    source: ImageSource | StreamSource,
    transform: Callable[[Image.Image], torch.Tensor],
    batch_size: int = 256,
    workers: int = 0,
    limit: int | None = None,
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
        _Transformed(source, transform),
        batch_size=batch_size,
        sampler=range(total),
        num_workers=workers,
        collate_fn=_collate_readable,
        generator=torch.Generator(),
    )
    for batch, corrupt in loader:
        log.add(corrupt, source)
        if batch is not None:
            yield batch


class _Steps(Sampler):
    """The (epoch, index) pairs of process `rank`, a list for each micro-step."""

    def __init__(
        self, n: int, batch_size: int, seed: int, rank: int, world_size: int, per_epoch: int, start: int, stop: int
    ) -> None:
        self.n, self.batch_size, self.seed, self.rank, self.world_size = n, batch_size, seed, rank, world_size
        self.per_epoch, self.start, self.stop = per_epoch, start, stop

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = order = None
        for step in range(self.start, self.stop):
            if step // self.per_epoch != epoch:
                epoch = step // self.per_epoch
                order = epoch_order(self.seed, epoch, self.n)
            first = (step % self.per_epoch * self.world_size + self.rank) * self.batch_size
            yield [(epoch, index) for index in order[first : first + self.batch_size].tolist()]


class _StreamViews(IterableDataset):
    """Views of a stream without end; sample k of a worker is seeded by (seed, worker, k)."""

    def __init__(
        self, source: StreamSource, stream, groups: dict[str, list[View]], seed: int, first_epoch: int,
        views_on: str,
    ) -> None:
        self.source, self.stream, self.groups, self.make = source, stream, groups, _MAKE[views_on]
        self.seed, self.first_epoch = seed, first_epoch

    def __iter__(self) -> Iterator[dict]:
        worker = get_worker_info()
        worker_id = worker.id if worker else 0
        # timm shares its epoch counter between workers; each needs its own, for they do not turn over together
        self.stream.reader.epoch_count = type(self.stream.reader.epoch_count)()
        count = 0
        for epoch in itertools.count(self.first_epoch):
            before = count
            self.stream.set_epoch(epoch)
            for image, target in self.source.read(self.stream):
                views = _seeded(self.make, self.groups, image, seed_for(self.seed, worker_id, count))
                yield {**views, "target": target, "corrupt": torch.empty(0, dtype=torch.int64)}
                count += 1
            if count == before:
                raise BurnError(f"{self.source.description}: no image could be read")


class _Transformed(Dataset):
    """(transformed image, target), or the index alone where the image cannot be read."""

    def __init__(self, source: ImageSource, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.source = source
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int] | int:
        try:
            image, target = self.source.load(index)
        except (BurnError, MemoryError):
            raise
        except Exception:
            return index
        return self.transform(image), target


def _seeded(make: Callable, groups: dict[str, list[View]], image: Image.Image, seed: int) -> dict:
    """`make(groups, image)` drawn from `seed`; torch's CPU generator ends as it was, CUDA's is untouched."""
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        return make(groups, image)
    finally:
        torch.default_generator.set_state(before)


def _made(groups: dict[str, list[View]], image: Image.Image) -> dict[str, torch.Tensor]:
    """uint8 [V, 3, H, W] of each group."""
    return {key: torch.stack([view(image) for view in views]) for key, views in groups.items()}


def _drawn(groups: dict[str, list[RandomView]], image: Image.Image) -> dict:
    return {"image": image, "drawn": {key: [view.draw(image) for view in views] for key, views in groups.items()}}


_MAKE = {"workers": _made, "device": _drawn}


def _collate(items: list[dict]) -> dict[str, torch.Tensor]:
    batch = default_collate([{key: value for key, value in item.items() if key != "corrupt"} for item in items])
    return {**batch, "corrupt": torch.cat([item["corrupt"] for item in items])}


def _collate_drawn(groups: dict[str, list[RandomView]], items: list[dict]) -> dict[str, torch.Tensor]:
    """What `DeviceViews` takes: `views_drawn` float32 [B, V, 16] (the rows are `Drawn.numbers()`), `images` uint8
    [B, H, W, 3] where these are small and of one size, else `views` uint8 [B, V, 3, S, S], the resized crops with their
    own colours; `small_views_drawn` and `small_views` likewise; `target` and `corrupt` as ever."""
    images, drawn = [item.pop("image") for item in items], [item.pop("drawn") for item in items]
    batch = _collate(items)
    for key in groups:
        batch[f"{key}_drawn"] = torch.tensor([[one.numbers() for one in of_image[key]] for of_image in drawn])
    if croppable(images, groups["views"][0].img_size):
        batch["images"] = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
        return batch
    for key, views in groups.items():
        crops = [
            np.asarray(view.cropped(image, one.crop))
            for image, of_image in zip(images, drawn, strict=True)
            for view, one in zip(views, of_image[key], strict=True)
        ]
        crops = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
        batch[key] = crops.reshape(len(images), len(views), *crops.shape[1:])
    return batch


def _collate_readable(items: list) -> tuple[tuple[torch.Tensor, torch.Tensor] | None, torch.Tensor]:
    corrupt = torch.tensor([item for item in items if isinstance(item, int)], dtype=torch.int64)
    readable = [item for item in items if not isinstance(item, int)]
    return (tuple(default_collate(readable)) if readable else None), corrupt


def _one_line(error: BurnError) -> BurnError:
    """A worker's error arrives with its traceback as text; take the message out of it."""
    return BurnError(str(error).strip().rsplit("BurnError: ", 1)[-1])
