"""Training the detector, visible from top to bottom; any iteration can be entered from a checkpoint.

All randomness of an iteration (image size, sampled anchors and regions, dropout) comes from torch's generator, seeded
by (seed, iteration); the order of the photos and which of them are mirrored are functions of the same two (`data`). So
a checkpoint holds weights, optimiser and a number.
"""

import argparse
import contextlib
import math
import time
from pathlib import Path

import torch
from timm.optim import create_optimizer_v2
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm.auto import tqdm

from ...data.loader import seed_for
from ...errors import BurnError
from ...nn.batchnorm import averaged_statistics
from ...runs import LineLog, load_checkpoint, require_same_run, save_checkpoint, understood
from ...schedules import step_lr
from .data import Batch, VocImage, train_batches
from .network import Detector

VERSION = 2  # of the checkpoint


def fit(
    detector: Detector, images: list[VocImage], args: argparse.Namespace, device: torch.device, identity: dict,
    checkpoint: Path, log: Path,
) -> dict:
    """Train `detector` in place for args.iterations; with args.resume from `checkpoint`, if it exists.

    Args:
        images: With the boxes to train on, at least one each.
        args: The options of the task, with seed and workers.
        identity: What a checkpoint must agree in to belong to this run; of `milestones` only those that it has passed.
        checkpoint, log: Files that are written, the checkpoint each args.checkpoint_interval iterations and at the end.

    Returns:
        iterations, resumed_at, seconds and seconds_per_iteration of this process, losses (means of the last line).

    Raises:
        BurnError: The checkpoint is another run's or damaged, a photo cannot be read, or loss or gradients are not
            finite.
    """
    optimizer = create_optimizer_v2(
        detector, opt="momentum" if args.opt == "sgd" else args.opt,  # timm's sgd is Nesterov's
        lr=args.lr, weight_decay=args.weight_decay, momentum=args.momentum,
    )
    start = 0
    if args.resume and checkpoint.is_file():
        start = _restore(checkpoint, identity, detector, optimizer, args.iterations)
    detector.train()
    started, unlogged = time.perf_counter(), []
    batches = train_batches(images, args.batch_size, args.seed, start, args.iterations, args.workers)
    with contextlib.closing(LineLog(log, start, key="iteration")) as lines, tqdm(
        total=args.iterations, initial=start, desc="detector", unit=" iterations", dynamic_ncols=True, disable=None,
    ) as bar:
        since = time.perf_counter()
        for iteration, batch in zip(range(start, args.iterations), batches, strict=True):
            lr = step_lr(iteration, args.lr, args.warmup, args.milestones)
            unlogged.append(_step(detector, optimizer, batch, device, iteration, lr, args))
            done, last = iteration + 1, iteration + 1 == args.iterations
            if done % args.log_interval == 0 or last:
                now, count = time.perf_counter(), len(unlogged)
                means = {name: round(sum(line[name] for line in unlogged) / count, 6) for name in unlogged[0]}
                seconds = round((now - since) / count, 4)
                lines.write({"iteration": done, "lr": lr, **means, "seconds_per_iteration": seconds})
                bar.set_postfix_str(f"loss {means['loss']:.3f}")
                unlogged, since = [], now
            bar.update()
            if done % args.checkpoint_interval == 0 or last:
                content = {"iteration": done, "detector": detector.state_dict(), "optimizer": optimizer.state_dict()}
                save_checkpoint(checkpoint, VERSION, identity, content)
    seconds = time.perf_counter() - started
    return {
        "iterations": args.iterations, "resumed_at": start, "seconds": round(seconds, 1),
        "seconds_per_iteration": round(seconds / max(1, args.iterations - start), 3),
        "losses": {name: value for name, value in lines.last.items() if name.startswith("loss")},
    }


def _step(
    detector: Detector, optimizer: torch.optim.Optimizer, batch: Batch, device: torch.device, iteration: int, lr: float,
    args: argparse.Namespace,
) -> dict[str, float]:
    """One iteration; the losses, their sum `loss`, and `grad_norm` before clipping.

    Raises:
        BurnError: The loss or the gradients are not finite. The weights are then those of before.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    losses = training_losses(detector, batch, device, seed_for(args.seed, iteration))
    loss = sum(losses.values())
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(detector.parameters(), math.inf if args.clip_grad is None else args.clip_grad)
    values = {name: value.item() for name, value in {"loss": loss, **losses, "grad_norm": norm}.items()}
    for name, what in (("loss", "loss"), ("grad_norm", "norm of the gradients")):
        if not math.isfinite(values[name]):
            raise BurnError(
                f"iteration {iteration}: the {what} is {values[name]}; lower --lr, lengthen --warmup or add "
                "--clip-grad (--resume goes on from the last checkpoint only with the same options)"
            )
    optimizer.step()
    return values


def training_losses(detector: Detector, batch: Batch, device: torch.device, seed: int) -> dict[str, torch.Tensor]:
    """The four losses of Faster R-CNN on one batch; what is random in them is a function of `seed`."""
    images, targets = to_device(batch, device)
    torch.manual_seed(seed)
    return detector(images, targets)


def to_device(batch: Batch, device: torch.device) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Images as float in [0, 1], and targets, on the device."""
    images = [pixels.to(device, non_blocking=True).float() / 255 for pixels, _ in batch]
    return images, [{name: value.to(device) for name, value in target.items()} for _, target in batch]


@torch.no_grad()
def precise_batchnorm(
    detector: Detector, images: list[VocImage], args: argparse.Namespace, device: torch.device,
) -> int:
    """Replace the running statistics of every BatchNorm that trains by their plain mean over args.precise_bn batches.

    The batches are those that would follow the training. Returns the number of layers.
    """
    norms = [m for m in detector.modules() if isinstance(m, _BatchNorm) and m not in detector.frozen]
    if not norms or not args.precise_bn:
        return 0
    detector.train()
    stop = args.iterations + args.precise_bn
    batches = train_batches(images, args.batch_size, args.seed, args.iterations, stop, args.workers)
    progress = tqdm(batches, total=args.precise_bn, desc="BatchNorm", unit=" batches", leave=False, disable=None)
    with averaged_statistics(norms):
        for iteration, batch in enumerate(progress, args.iterations):
            training_losses(detector, batch, device, seed_for(args.seed, iteration))
    return len(norms)


def _restore(
    path: Path, identity: dict, detector: Detector, optimizer: torch.optim.Optimizer, iterations: int,
) -> int:
    """Load a checkpoint of the same run; returns how many of the `iterations` are done. Raises BurnError."""
    theirs, content = load_checkpoint(path, VERSION)
    with understood(path):
        done = content["iteration"]
        passed = [{**run, "milestones": [m for m in run["milestones"] if m < done]} for run in (theirs, identity)]
        require_same_run(path, *passed)
        if done > iterations:
            raise BurnError(f"{path}: {done} iterations are done, more than --iterations {iterations}")
        detector.load_state_dict(content["detector"])
        optimizer.load_state_dict(content["optimizer"])
    return done
