"""Semi-supervised fine-tuning (Table 2 of the BURN paper): the whole network, with few labels (1 % or 10 %).

SGD with momentum 0.9, 20 epochs, learning rate x0.2 at 60 % and 80 % of them (12 and 16), a grid of learning rates and
of factors for the classifier's; weight decay 5e-4 with 1 % of the labels, 1e-4 with more. The best of the grid on the
test images is reported, as published, and the whole grid beside it. A binary network starts from its packed weights
(signs and scales) and, where they are at hand, from its latent ones: both are reported.
"""

import argparse
import gzip
import itertools
import json
import os
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from tqdm import tqdm

from ..checkpoints import load_model, read_state_dict
from ..data import ImageSource, eval_loader, make_train_loader, make_view, micro_steps_per_epoch, seed_for
from ..data.corrupt import CorruptLog
from ..data.datasets import mirror_probability
from ..data.views import VIEWS
from ..errors import BurnError
from ..files import atomic_write
from ..nn import Backbone
from ..packing import is_packed
from .features import eval_transform
from .linear import topk_accuracy

DESCRIPTION = "the whole network with few labels (1 %, 10 %), learning rates x head factors: top-1 and top-5"


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--fraction", type=float, default=0.01, help="of the labels, class by class (default: %(default)s; 1: all)")
    add("--subset-list", metavar="FILE", help="file names of the images to use, a line each, also .gz: SimCLR's lists "
        "1percent.txt and 10percent.txt (github.com/google-research/simclr) for ImageNet")
    add("--latent", metavar="FILE", help="real-valued weights to start from too; default: latent.safetensors of the "
        "run, beside its export; none: only the packed ones")
    add("--epochs", type=int, default=20, help="(default: %(default)s)")
    add("--milestones", type=float, nargs="*", default=(0.6, 0.8), metavar="SHARE",
        help="shares of the epochs after which the rate falls to a fifth (default: 0.6 0.8)")
    add("--lrs", type=float, nargs="+", default=(0.1, 0.01, 0.001), metavar="LR", help="(default: .1 .01 .001)")
    add("--head-multipliers", type=float, nargs="+", default=(1, 10, 100), metavar="X",
        help="factors of the classifier's learning rate (default: 1 10 100)")
    add("--weight-decay", type=float, help="(default: 5e-4 up to 1 %% of the labels, else 1e-4)")
    add("--sgd-batch-size", type=int, default=256, metavar="N", help="images per SGD step (default: %(default)s)")
    add("--view", choices=VIEWS, default="supervised", help="augmentation (default: %(default)s)")
    add("--hflip", type=float, help="probability of the mirror image (default: 0.5, digits: 0)")


def check(args: argparse.Namespace) -> None:
    """Refuse settings that cannot be followed. Raises BurnError."""
    if not 0 < args.fraction <= 1:
        raise BurnError(f"--fraction must lie in (0, 1], not {args.fraction}")
    if args.epochs < 1 or args.sgd_batch_size < 2:
        raise BurnError("--epochs must be at least 1 and --sgd-batch-size at least 2")
    for option in ("lrs", "head_multipliers"):
        if not all(0 < value < float("inf") for value in getattr(args, option)):
            raise BurnError(f"--{option.replace('_', '-')} must be positive, not {getattr(args, option)}")
    if args.latent not in (None, "none"):
        if not os.path.isfile(args.latent):
            raise BurnError(f"--latent {args.latent}: no such file")
        if not args.checkpoint and not args.model.startswith("local-dir:"):
            raise BurnError("--latent goes beside packed weights: give those by --checkpoint or --model local-dir:...")
    if args.pixels or args.calibrate_bn:
        raise BurnError("finetune trains a network: leave out --pixels and --calibrate-bn")


def labelled_subset(source: ImageSource, args: argparse.Namespace) -> tuple[ImageSource, str]:
    """The images whose labels are used, and in words how they were chosen.

    With --subset-list those whose file name it holds; else a seeded share of each class, at least one image.

    Raises:
        BurnError: the list cannot be read, or names images that are not there.
    """
    if args.subset_list:
        names = read_list(args.subset_list)
        places = {os.path.basename(source.file_name(index)): index for index in range(len(source))}
        missing = [name for name in names if name not in places]
        if missing:
            raise BurnError(
                f"--subset-list {args.subset_list}: {len(missing)} of {len(names)} images are not in "
                f"{source.description}, the first is {missing[0]}"
            )
        chosen = sorted(places[name] for name in names)
        words = f"{len(chosen)} images of the list {os.path.basename(args.subset_list)}"
    else:
        labels = source.labels()
        rng = np.random.default_rng(args.seed)
        chosen = []
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            count = max(1, round(args.fraction * len(members)))
            chosen += rng.choice(members, count, replace=False).tolist()
        chosen.sort()
        words = f"{len(chosen)} images, {args.fraction:.3%} of each class, seed {args.seed}"
    return source.subset(chosen), words


def read_list(path: str) -> list[str]:
    """File names of a list, a line each, gzip or plain. Raises BurnError where it cannot be read or is empty."""
    try:
        raw = Path(path).read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    except (OSError, EOFError, UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise BurnError(f"--subset-list {path}: cannot be read ({error}); expected file names, a line each") from error
    names = [os.path.basename(line.strip()) for line in text.splitlines() if line.strip()]
    if not names:
        raise BurnError(f"--subset-list {path}: no file names in it")
    return names


def starts(args: argparse.Namespace, checkpoint: Path | None) -> dict[str, Path | None]:
    """Name of each start -> file of its weights (None: timm's own, or random ones)."""
    if checkpoint is None:
        return {"pretrained" if args.pretrained or ":" in args.model else "random": None}
    if args.latent == "none":
        return {"weights": checkpoint}
    beside = checkpoint.absolute().parent.parent / "latent.safetensors"
    latent = Path(args.latent) if args.latent else beside if checkpoint.parent.name == "export" else None
    if latent is None or not latent.is_file() or not is_packed(read_state_dict(checkpoint)[0]):
        return {"weights": checkpoint}  # an export of a stage with real-valued weights is its own latent file
    return {"packed": checkpoint, "latent": latent}


def finetune(
    args: argparse.Namespace, device: torch.device, train: ImageSource, test: ImageSource, config: dict,
    checkpoint: Path | None,
) -> dict:
    """Every start at every point of the grid.

    Args:
        train: the labelled images to use.
        config: of the evaluation's transform.

    Returns:
        `value`, `top5`: of the first start's best point; `starts`: {name: {"top1", "top5", "lr", "head_multiplier",
        "grid": [...]}}.
    """
    if not train.num_classes:
        raise BurnError("finetune needs labels")
    which = starts(args, checkpoint)
    files = [*which.values(), Path(args.subset_list) if args.subset_list else None]
    cells = _Cells(Path(f"{args.output}.cells.json"), args, train.description, files)
    results = {}
    grid = list(itertools.product(sorted(args.lrs, reverse=True), sorted(args.head_multipliers)))
    with tqdm(total=len(which) * len(grid) * args.epochs, desc="finetune", unit=" epochs") as bar:
        for name, file in which.items():
            rows = []
            for lr, multiplier in grid:
                key = f"{name} {lr:g} {multiplier:g}"
                if key in cells.done:
                    bar.update(args.epochs)
                else:
                    bar.set_postfix_str(key)
                    top1, top5 = _one(args, device, train, test, config, file, lr, multiplier, bar)
                    cells.add(key, {"lr": lr, "head_multiplier": multiplier, "top1": top1, "top5": top5})
                rows.append(cells.done[key])
            best = max(rows, key=lambda row: (row["top1"], row["top5"]))
            results[name] = {**best, "grid": rows}
    first = next(iter(results.values()))
    cells.path.unlink()
    return {"value": first["top1"], "top5": first["top5"], "starts": results}


def _one(args, device, train, test, config, file, lr, multiplier, bar) -> tuple[float, float]:
    """Top-1 and top-5 after one training run from the weights in `file`; NaN logits count as wrong."""
    torch.manual_seed(seed_for(args.seed, 0xF17E))
    model = load_model(args.model, file, num_classes=train.num_classes, pretrained=args.pretrained or None)
    side = config["input_size"][-1]
    if hasattr(model, "set_input_size"):
        model.set_input_size(img_size=side)
    model.to(device)
    head = model.get_classifier()
    of_head = {id(parameter) for parameter in head.parameters()}
    groups = [
        {"params": [p for p in model.parameters() if id(p) not in of_head], "lr": lr},
        {"params": list(head.parameters()), "lr": lr * multiplier},
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=weight_decay(args, len(train)))
    size = min(args.sgd_batch_size, len(train))
    per_epoch = micro_steps_per_epoch(len(train), size, 1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(
        optimizer, [round(share * args.epochs) for share in args.milestones], gamma=0.2
    )
    own = resolve_model_data_config(model)
    network = Backbone(model, own["mean"], own["std"], (side, side)).to(device)
    flip = args.hflip if args.hflip is not None else mirror_probability(args.dataset)
    corrupt = CorruptLog(len(train))
    loader = iter(make_train_loader(
        train, make_view(args.view, side, flip), n_views=1, batch_size=size, seed=seed_for(args.seed), rank=0,
        world_size=1, start_micro_step=0, micro_steps_per_epoch=per_epoch, total_micro_steps=args.epochs * per_epoch,
        workers=args.workers,
    ))
    network.train()
    for _ in range(args.epochs):
        for _ in range(per_epoch):
            batch = next(loader)
            corrupt.add(batch["corrupt"], train)
            loss = F.cross_entropy(network(batch["views"][:, 0].to(device)), batch["target"].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        bar.update()
    return _test(model, test, config, device, args)


@torch.no_grad()
def _test(model: nn.Module, test: ImageSource, config: dict, device, args) -> tuple[float, float]:
    model.eval()
    logits, labels = [], []
    for images, targets in eval_loader(test, eval_transform(config), args.batch_size, args.workers):
        logits.append(model(images.to(device)).float().cpu())
        labels.append(targets)
    logits, labels = torch.cat(logits), torch.cat(labels)
    logits = torch.where(torch.isfinite(logits).all(1, keepdim=True), logits, torch.zeros_like(logits))
    return topk_accuracy(logits, labels, 1), topk_accuracy(logits, labels, min(5, logits.shape[1]))


def weight_decay(args: argparse.Namespace, count: int) -> float:
    """--weight-decay, or the published one: 5e-4 with 1 % of the labels (of ImageNet: 12,811), 1e-4 with 10 %."""
    if args.weight_decay is not None:
        return args.weight_decay
    few = count < 13_000 if args.subset_list else args.fraction <= 0.01
    return 5e-4 if few else 1e-4


def protocol(args: argparse.Namespace, chosen: str, count: int, total: int) -> dict:
    """The resolved settings, for the result file; `chosen` says which labels, `count` how many of `total`."""
    return {
        "method": "fine-tuning of the whole network, BatchNorm in training mode",
        "labels": chosen,
        "fraction": round(count / total, 2) if args.subset_list else args.fraction,
        "optimizer": "SGD",
        "momentum": 0.9,
        "weight_decay": weight_decay(args, count),
        "batch_size": min(args.sgd_batch_size, count),
        "epochs": args.epochs,
        "lr_schedule": "x0.2 at " + " and ".join(f"{share:.4g}" for share in args.milestones) + " of the epochs",
        "lrs": sorted(args.lrs),
        "head_multipliers": sorted(args.head_multipliers),
        "choice": "best top-1 on the test images, as published; the whole grid is in `extra`",
        "view": args.view,
        "view_interpolation": VIEWS[args.view].interpolation if VIEWS[args.view] else "bicubic",
        "metric": "top-1 accuracy, fraction",
    }


class _Cells:
    """The finished points of a grid in a file beside the result, so that a run that was killed goes on where it was."""

    def __init__(self, path: Path, args: argparse.Namespace, images: str, files: list[Path | None]):
        self.path = path
        free = ("output", "lrs", "head_multipliers", "workers", "threads", "device", "batch_size")  # change no point
        self.identity = {name: value for name, value in vars(args).items() if name not in free}
        self.identity.update(images=images, files=[_stamp(file) for file in files], timm=timm.__version__)
        self.identity = json.loads(json.dumps(self.identity))
        self.done: dict[str, dict] = {}
        if path.exists():
            try:
                kept = json.loads(path.read_text())
            except json.JSONDecodeError:
                return
            if kept.get("identity") == self.identity:
                self.done = kept["done"]

    def add(self, key: str, row: dict) -> None:
        self.done[key] = row
        with atomic_write(self.path) as beside:
            beside.write_text(json.dumps({"identity": self.identity, "done": self.done}))


def _stamp(path: Path | None) -> list | None:
    return None if path is None else [str(path), path.stat().st_size, path.stat().st_mtime_ns]
