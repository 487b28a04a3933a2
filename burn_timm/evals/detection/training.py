"""Training the detector, visible from top to bottom; any iteration can be entered from a checkpoint.

All randomness of an iteration (image size, sampled anchors and regions, dropout) comes from torch's generator, seeded
by (seed, iteration); order and flips are functions of the same two (`batches`). So a checkpoint holds weights,
optimiser and a number.
"""

import argparse
import math
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from timm.optim import create_optimizer_v2
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm.auto import tqdm

from ...data.loader import seed_for
from ...errors import BurnError
from ...files import atomic_write
from .batches import Batch, train_batches
from .logs import TrainingLog
from .network import Detector
from .voc import VocImage

VERSION = 1


def lr_at(iteration: int, base_lr: float, warmup: int, milestones: Iterable[int]) -> float:
    """Learning rate of an iteration (from 0): linear warm-up from base_lr / 1000, a tenth at each milestone passed."""
    part = min(1.0, iteration / warmup) if warmup else 1.0
    return base_lr * (0.001 + 0.999 * part) * 0.1 ** sum(iteration >= milestone for milestone in milestones)


def fit(
    detector: Detector, images: list[VocImage], args: argparse.Namespace, device: torch.device, identity: dict,
    checkpoint: Path, log: Path,
) -> dict:
    """Train `detector` in place for args.iterations; with args.resume from `checkpoint`, if it exists.

    Args:
        images: with the boxes to train on, at least one each.
        args: of `options`, and seed and workers.
        identity: what a checkpoint must agree in to belong to this run; of `milestones` those that it has passed, and
            `iterations` not at all: they do not change what has been done.
        checkpoint, log: files that are written, the checkpoint each args.checkpoint_interval iterations and at the end.

    Returns:
        iterations, resumed_at, seconds and seconds_per_iteration of this process, losses (means of the last line).

    Raises:
        BurnError: the checkpoint is another run's or damaged, a photo cannot be read, or the loss is not finite.
    """
    optimizer = create_optimizer_v2(
        detector, opt="momentum" if args.opt == "sgd" else args.opt,  # timm's sgd is Nesterov's
        lr=args.lr, weight_decay=args.weight_decay, momentum=args.momentum,
    )
    start = 0
    if args.resume and checkpoint.is_file():
        start = _restore(checkpoint, identity, detector, optimizer)
        if start > args.iterations:
            raise BurnError(f"{checkpoint}: {start} iterations are done, more than --iterations {args.iterations}")
    detector.train()
    started = time.perf_counter()
    batches = train_batches(images, args.batch_size, args.seed, start, args.iterations, args.workers)
    with TrainingLog(log, start) as lines, tqdm(
        total=args.iterations, initial=start, desc="detector", unit=" iterations", dynamic_ncols=True, disable=None,
    ) as bar:
        for iteration, batch in zip(range(start, args.iterations), batches, strict=True):
            lr = lr_at(iteration, args.lr, args.warmup, args.milestones)
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get("lr_scale", 1.0)
            losses = training_losses(detector, batch, device, seed_for(args.seed, iteration))
            loss = sum(losses.values())
            optimizer.zero_grad()
            loss.backward()
            if args.clip_grad is not None:
                nn.utils.clip_grad_norm_(detector.parameters(), args.clip_grad)
            optimizer.step()

            values = {"loss": loss.item(), **{name: value.item() for name, value in losses.items()}}
            if not math.isfinite(values["loss"]):
                raise BurnError(
                    f"iteration {iteration}: the loss is {values['loss']}; lower --lr, lengthen --warmup or add "
                    "--clip-grad (--resume goes on from the last checkpoint only with the same options)"
                )
            done = iteration + 1
            lines.add(values)
            if done % args.log_interval == 0 or done == args.iterations:
                lines.write(done, lr)
                bar.set_postfix_str(f"loss {lines.last['loss']:.3f}")
            bar.update()
            if done % args.checkpoint_interval == 0 or done == args.iterations:
                _save(checkpoint, identity, detector, optimizer, done)
    seconds = time.perf_counter() - started
    return {
        "iterations": args.iterations, "resumed_at": start, "seconds": round(seconds, 1),
        "seconds_per_iteration": round(seconds / max(1, args.iterations - start), 3),
        "losses": {name: value for name, value in lines.last.items() if name.startswith("loss")},
    }


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

    The batches are those that would follow the training. Returns the number of layers; momenta stay as they were.
    """
    norms = [m for m in detector.modules() if isinstance(m, _BatchNorm) and m not in detector.frozen]
    if not norms or not args.precise_bn:
        return 0
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's cumulative mean
    detector.train()
    stop = args.iterations + args.precise_bn
    batches = train_batches(images, args.batch_size, args.seed, args.iterations, stop, args.workers)
    progress = tqdm(batches, total=args.precise_bn, desc="BatchNorm", unit=" batches", leave=False, disable=None)
    for iteration, batch in enumerate(progress, args.iterations):
        training_losses(detector, batch, device, seed_for(args.seed, iteration))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return len(norms)


def _save(path: Path, identity: dict, detector: Detector, optimizer: torch.optim.Optimizer, iteration: int) -> None:
    content = {
        "version": VERSION, "identity": identity, "iteration": iteration,
        "detector": detector.state_dict(), "optimizer": optimizer.state_dict(),
    }
    with atomic_write(path) as beside:
        torch.save(content, beside)


def _restore(path: Path, identity: dict, detector: Detector, optimizer: torch.optim.Optimizer) -> int:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        version, theirs, iteration = (content[key] for key in ("version", "identity", "iteration"))
        weights, state = content["detector"], content["optimizer"]
    except Exception as error:  # torch raises pickle, zip, runtime and key errors for damaged files
        raise BurnError(
            f"{path}: not a readable checkpoint of a detector ({type(error).__name__}); remove it to start anew"
        ) from error
    if version != VERSION:
        raise BurnError(f"{path}: checkpoint version {version}, this is version {VERSION}")
    theirs, ours = (
        {**options, "iterations": None, "milestones": [m for m in options["milestones"] if m < iteration]}
        for options in (theirs, identity)
    )
    differing = [name for name in ours if theirs.get(name) != ours[name]]
    if differing:
        told = "; ".join(f"{name} {theirs.get(name)!r} there, {ours[name]!r} here" for name in differing)
        raise BurnError(f"{path}: belongs to another run: {told}; choose another --output")
    detector.load_state_dict(weights)
    optimizer.load_state_dict(state)
    return iteration
