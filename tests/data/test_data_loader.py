"""Order, seeds and tensors are functions of (seed, step); corrupt images are replaced and counted, too many raise."""

import logging
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from burn_timm.data import open_dataset
from burn_timm.data.corrupt import CorruptLog
from burn_timm.data.loader import ViewDataset, epoch_order, eval_loader, micro_steps_per_epoch, seed_for
from burn_timm.data.sources import ImageSource
from burn_timm.data.views import make_view, view_groups

from .pictures import refused, train_loader, write


@pytest.fixture(scope="module")
def digits() -> ImageSource:
    return open_dataset("digits")


def loader(source, batch_size=32, total=3, **options):
    return train_loader(source, make_view("burn", 32), batch_size=batch_size, total=total, **options)


def assert_same(batches, others):
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys() == {"views", "target", "corrupt"}
        for key in batch:
            assert torch.equal(batch[key], other[key]), key


def folder_of_digits(root, count: int, broken=()) -> ImageSource:
    """`count` images in three class folders; those numbered in `broken` (in name order) cut short."""
    for number in range(count):
        write(root / f"class{number * 3 // count}" / f"{number:04d}.png", number, 24, cut=60 if number in broken else 0)
    return open_dataset("folder", root)


def test_seed_for_is_stable_and_distinct():
    # Written down once: a change would break the resuming of every earlier run.
    assert (seed_for(), seed_for(0), seed_for(-1)) == (6510301506637419378, 4246866556266386882, 8286699972902792079)
    assert (seed_for(1, 23), seed_for(12, 3)) == (2409335327811177931, 2455815314775114142)
    seeds = [seed_for(seed, epoch, index) for seed in range(5) for epoch in range(10) for index in range(100)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({seed & 0xFFFFFFFF for seed in seeds}) > len(seeds) - 3  # torch's CPU generator uses 32 bits of it
    assert seed_for(np.int64(3), torch.tensor(4)) == seed_for(3, 4)


def test_epoch_order_is_a_pure_permutation():
    torch.manual_seed(0)
    first = epoch_order(7, 2, 1000)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(epoch_order(7, 2, 1000), first) and torch.equal(torch.get_rng_state(), state)
    assert sorted(first.tolist()) == list(range(1000)) and first.dtype == torch.int64
    for other in (epoch_order(7, 3, 1000), epoch_order(8, 2, 1000)):
        assert (other == first).sum() < 15  # as many as two random orders share


def test_micro_steps_per_epoch():
    assert micro_steps_per_epoch(100, 16, 2) == 3 and micro_steps_per_epoch(32, 16, 2) == 1
    with refused(r"16 x 2.*32 images.*has 31.*at most 15"):
        micro_steps_per_epoch(31, 16, 2)


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2)])
def test_batches_against_a_slow_loop(digits, rank, world_size):
    """Around the end of an epoch; what several processes see together depends on their whole batch only."""
    view, size, whole = make_view("burn", 32), 64 // world_size, 64
    per_epoch = len(digits) // whole
    place_of = dict(batch_size=size, rank=rank, world_size=world_size)
    batches = list(loader(digits, start=per_epoch - 1, total=per_epoch + 1, **place_of))
    for step, batch in zip((per_epoch - 1, per_epoch), batches, strict=True):
        epoch, place = divmod(step, per_epoch)
        first = place * whole + rank * size
        for row, index in enumerate(epoch_order(5, epoch, len(digits)).tolist()[first : first + size]):
            image, target = digits.load(index)
            torch.manual_seed(seed_for(5, epoch, index))
            assert torch.equal(batch["views"][row], torch.stack([view(image), view(image)]))
            assert batch["target"][row] == target
    assert batches[0]["views"].shape == (size, 2, 3, 32, 32) and batches[0]["views"].dtype == torch.uint8
    assert batches[0]["target"].dtype == batches[0]["corrupt"].dtype == torch.int64


@pytest.mark.parametrize(("start", "workers"), [(0, 2), (1, 0), (2, 2), (3, 0)])
def test_workers_and_cold_starts_change_nothing(digits, start, workers):
    few = digits.subset(range(90))  # two steps an epoch
    whole, cold = (
        list(loader(few, batch_size=40, total=5, start=first, workers=by)) for first, by in ((0, 0), (start, workers))
    )
    assert_same(whole[start:], cold)
    assert list(loader(few, start=3, total=3)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_the_random_state_of_the_caller_is_not_disturbed(digits, workers):
    torch.manual_seed(1)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    list(loader(digits, workers=workers))
    list(eval_loader(digits, make_view("none", 32), limit=10, workers=workers))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1] and np.array_equal(np.random.get_state()[1], states[2])


def test_an_error_in_a_view_is_no_corrupt_image_and_restores_the_random_state_too(digits):
    state = torch.get_rng_state()
    with pytest.raises(AttributeError):
        ViewDataset(digits, {"views": [lambda image: torch.rand(3) + image.no_such_method()]}, 0)[0, 0]
    assert torch.equal(torch.get_rng_state(), state)


def test_corrupt_images_are_replaced_and_all_counted(tmp_path, caplog):
    broken = {0, 200, 201, 299}
    source = folder_of_digits(tmp_path, 300, broken)
    log = CorruptLog(total=500)
    with caplog.at_level(logging.WARNING):
        for batch in loader(source, batch_size=30, total=20, workers=2):  # two epochs
            log.add(batch["corrupt"], source)
    assert log.indices == sorted(broken) and len(log) == 4
    assert caplog.text.count("it cannot be read (image file is truncated") == 4
    assert "class2/0201.png" in caplog.text and str(tmp_path) not in caplog.text

    view = make_view("burn", 32)
    dataset = ViewDataset(source, view_groups(view, 2, None, 0), seed=5)
    for index, replacement, passed in [(200, 202, [200, 201]), (201, 202, [201]), (299, 1, [299, 0]), (7, 7, [])]:
        item = dataset[4, index]
        image, target = source.load(replacement)
        torch.manual_seed(seed_for(5, 4, index))
        assert torch.equal(item["views"], torch.stack([view(image), view(image)]))
        assert item["target"] == target and item["corrupt"].tolist() == passed


def test_one_percent_is_allowed_and_more_is_not():
    source = SimpleNamespace(name=lambda index: f"image{index}.jpg", why_unreadable=lambda index: "broken")
    log = CorruptLog(total=200)
    for corrupt in ([-1, 7, 7, -1], [], [[3], [7]]):
        log.add(torch.tensor(corrupt, dtype=torch.int64), source)
    assert log.indices == [3, 7]
    restored = CorruptLog(total=1)
    restored.load_state_dict(log.state_dict())
    restored.add(torch.tensor([3]), source)
    with refused(r"3 of 200 images.*1%.*image3.jpg: broken, image5.jpg: broken, image7.jpg"):
        restored.add(torch.tensor([5]), source)
    assert restored.indices == [3, 5, 7] and log.indices == [3, 7]
    log.merge([3, 7], source)
    with refused("3 of 200 images.*image9.jpg"):
        log.merge([9], source)


@pytest.mark.parametrize(("workers", "count"), [(0, 6), (2, 300)])
def test_a_wholly_unreadable_set_is_one_line(tmp_path, workers, count):
    source = folder_of_digits(tmp_path, count, range(count))
    for read in (loader(source, batch_size=4, workers=workers),
                 eval_loader(source, make_view("none", 32), workers=workers)):
        with refused(rf"of {count} images cannot be read.*\.png"):
            list(read)


def test_eval_loader_is_in_order_and_leaves_out_the_corrupt(tmp_path, caplog):
    source, view = folder_of_digits(tmp_path, 250, {3, 10}), make_view("none", 32)
    with caplog.at_level(logging.WARNING):
        batches = list(eval_loader(source, view, batch_size=4, workers=2, limit=246))
    assert [len(targets) for _, targets in batches] == [3, 4, 3] + [4] * 58 + [2]
    readable = [index for index in range(246) if index not in (3, 10)]
    assert torch.equal(torch.cat([x for x, _ in batches]), torch.stack([view(source.load(i)[0]) for i in readable]))
    assert torch.cat([y for _, y in batches]).tolist() == [source.load(index)[1] for index in readable]
    assert caplog.text.count("cannot be read") == 2
