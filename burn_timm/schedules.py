"""Schedules as pure functions of training progress in [0, 1]."""

import math
from collections.abc import Iterable

LAMBDA_SCHEDULES = ("cosine", "constant", "step")
LR_SCHEDULES = ("cosine", "linear", "constant")


def cosine(progress: float, start: float, end: float) -> float:
    """From `start` to `end` along half a cosine."""
    return end - (end - start) * (math.cos(math.pi * progress) + 1) / 2


def lambda_at(progress: float, start: float, end: float, schedule: str = "cosine") -> float:
    """Weight of the feature similarity loss (BURN, Eq. 3 and Table 7).

    `cosine`: Eq. 3, with t / T_max = progress.
    `constant`: `start` throughout (Table 7 uses 0.7). `step`: 1 in the first half, 0 in the second, H(-t + T_max / 2).
    """
    if schedule == "cosine":
        return cosine(progress, start, end)
    if schedule == "constant":
        return start
    if schedule == "step":
        return 1.0 if progress < 0.5 else 0.0
    raise ValueError(f"schedule must be one of {', '.join(LAMBDA_SCHEDULES)}, not {schedule!r}")


def lr_at(
    step: int, total_steps: int, base_lr: float, warmup_steps: int = 0, schedule: str = "cosine", min_lr: float = 0.0,
    warmup_prefix: bool = True, every: int = 1,
) -> float:
    """Learning rate of optimiser step `step` (from 0): linear warm-up to `base_lr`, decay to `min_lr` at `total_steps`.

    Args:
        warmup_prefix: The decay begins behind the warm-up; else at step 0, and the warm-up scales it.
        every: Number of steps after each of which the decay moves; those of an epoch, where it goes by epochs.
    """
    start = warmup_steps if warmup_prefix else 0
    progress = max(0, step - start) // every * every / max(1, total_steps - start)
    if schedule == "cosine":
        lr = cosine(progress, base_lr, min_lr)
    elif schedule == "linear":
        lr = min_lr + (base_lr - min_lr) * (1 - progress)
    elif schedule == "constant":
        lr = base_lr
    else:
        raise ValueError(f"schedule must be one of {', '.join(LR_SCHEDULES)}, not {schedule!r}")
    return lr * (step + 1) / warmup_steps if step < warmup_steps else lr


def step_lr(iteration: int, base_lr: float, warmup: int, milestones: Iterable[int]) -> float:
    """Learning rate of an iteration (from 0): linear warm-up from base_lr / 1000, a tenth at each milestone passed."""
    part = min(1.0, iteration / warmup) if warmup else 1.0
    return base_lr * (0.001 + 0.999 * part) * 0.1 ** sum(iteration >= milestone for milestone in milestones)
