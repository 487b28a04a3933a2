"""Semi-supervised fine-tuning (Table 2 of the BURN paper): the whole network, with few labels (1 % or 10 %).

SGD with momentum 0.9, 20 epochs, learning rate x0.2 at 60 % and 80 % of them (12 and 16), a grid of learning rates and
of factors for the classifier's; weight decay 5e-4 with 1 % of the labels, 1e-4 with more. The best of the grid on the
test images is reported, as published, and the whole grid beside it. A binary network starts from its packed weights
(signs and scales) and, where they are at hand, from its latent ones: both are reported. The classifier is a fresh one,
as the paper's and SimCLR's: one that weights come with may have seen all labels, or other classes.
"""

import argparse
import gzip
import itertools
import json
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from tqdm import tqdm

from ..arguments import above_zero, not_negative, number, positive, whole
from ..checkpoints import load_model, read_state_dict
from ..data import DEFAULT_INTERPOLATION, VIEWS, ImageSource, eval_loader, make_view, mirror_probability, seed_for
from ..errors import BurnError
from ..files import read_json, write_json
from ..nn import Backbone
from ..packing import is_packed, pack_weight, packed_weight_names
from ..version import __version__
from .augmented import epochs_of_views
from .features import eval_transform
from .heads import LAST_BATCH, MOMENTUM, topk_accuracy

DESCRIPTION = "the whole network with few labels (1 %, 10 %), learning rates x head factors: top-1 and top-5"


def add_options(parser: argparse.ArgumentParser) -> None:
    add, share = parser.add_argument, number(above=0, most=1)
    labels = parser.add_mutually_exclusive_group().add_argument
    labels("--fraction", type=share, default=0.01, help="of the labels, class by class; 1: all")
    labels("--subset-list", metavar="FILE", help="file names of the images to use, a line each, also .gz: SimCLR's "
           "lists 1percent.txt and 10percent.txt (github.com/google-research/simclr) for ImageNet")
    add("--latent", metavar="FILE", help="real-valued weights to start from too; default: latent.safetensors of the "
        "run, beside its export; none: only the packed ones")
    add("--epochs", type=positive, default=20, help="passes over the labelled images, for each setting of the grid")
    add("--milestones", type=share, nargs="*", default=(0.6, 0.8), metavar="SHARE",
        help="shares of the epochs after which the rate falls to a fifth")
    add("--lrs", type=above_zero, nargs="+", default=(0.1, 0.01, 0.001), metavar="LR", help="learning rates to try")
    add("--head-multipliers", type=above_zero, nargs="+", default=(1, 10, 100), metavar="X",
        help="factors of the classifier's learning rate to try")
    add("--weight-decay", type=not_negative, help="default: 5e-4 up to 1 % of the labels, else 1e-4")
    add("--sgd-batch-size", type=whole(2), default=256, metavar="N", help="images per SGD step")
    add("--view", choices=VIEWS, default="supervised", help="augmentation")


def protocol(args: argparse.Namespace, labels: str, count: int, total: int) -> dict:
    """The settings in words, for the result file; `labels` says which of them are used, `count` how many of `total`."""
    fraction = round(count / total, 2) if args.subset_list or args.limit_train else args.fraction
    published, view = 5e-4 if fraction <= 0.01 else 1e-4, VIEWS[args.view]
    return {
        "method": "fine-tuning of the whole network, BatchNorm in training mode",
        "classifier": "fresh",
        "labels": labels,
        "fraction": fraction,
        "optimizer": "SGD",
        "momentum": MOMENTUM,
        "weight_decay": published if args.weight_decay is None else args.weight_decay,
        "batch_size": batch_size(args, count),
        "last_batch": LAST_BATCH,
        "epochs": args.epochs,
        "lr_schedule": "x0.2 at " + " and ".join(f"{share:.4g}" for share in args.milestones) + " of the epochs",
        "lrs": sorted(args.lrs),
        "head_multipliers": sorted(args.head_multipliers),
        "choice": "best top-1 on the test images, as published; the whole grid is in `extra`",
        "view": args.view,
        "view_interpolation": view.interpolation if view else DEFAULT_INTERPOLATION,
        "mirror_probability": mirror_probability(args.dataset) if view else 0.0,
        "metric": "top-1 accuracy, fraction",
    }


def batch_size(args: argparse.Namespace, count: int) -> int:
    """Images per step of `count` labelled ones: one more than asked for where a single image would else be left for
    the last batch, of which BatchNorm has no statistics."""
    size = min(args.sgd_batch_size, count)
    while count % size == 1:
        size += 1
    return size


def run(
    args: argparse.Namespace, device: torch.device, train: ImageSource, test: ImageSource, config: dict,
    checkpoint: Path | None, weight_decay: float,
) -> dict:
    """Train from every start at every point of the grid of --lrs and --head-multipliers.

    Finished points are kept in `grid_file(args.output)`, so that a run that was killed goes on where it was. Remove
    that file once the result is written.

    Args:
        train: the labelled images to use.
        config: timm's data config of the test images.
        checkpoint: the file of the weights, None for random ones and timm's.
        weight_decay: as the protocol states it.

    Returns:
        `value`, `top5`: of the first start's best point; `starts`: {name: {"top1", "top5", "images" (tested), "lr",
        "head_multiplier", "grid": [...]}}.
    """
    files = starts(args, checkpoint)
    points = list(itertools.product(sorted(args.lrs, reverse=True), sorted(args.head_multipliers)))
    inputs = [*files.values(), Path(args.subset_list) if args.subset_list else None]
    path, identity = grid_file(args.output), _identity(args, [train, test], inputs)
    kept = read_json(path) if path.exists() else {}
    done = kept["done"] if kept.get("identity") == identity else {}
    results = {}
    with tqdm(total=len(files) * len(points) * args.epochs, desc="finetune", unit=" epochs") as bar:
        for start, file in files.items():
            grid = []
            for lr, multiplier in points:
                key = f"{start} {lr:g} {multiplier:g}"
                if key in done:
                    bar.update(args.epochs)
                else:
                    bar.set_postfix_str(key)
                    side = config["input_size"][-1]
                    model = _trained(args, device, train, file, lr, multiplier, weight_decay, side, bar.update)
                    done[key] = {"lr": lr, "head_multiplier": multiplier, **_tested(args, device, model, test, config)}
                    write_json(path, {"identity": identity, "done": done})
                grid.append(done[key])
            best = max(grid, key=lambda point: (point["top1"], point["top5"]))
            results[start] = {**best, "grid": grid}
    first = next(iter(results.values()))
    return {"value": first["top1"], "top5": first["top5"], "starts": results}


def labelled_subset(source: ImageSource, args: argparse.Namespace) -> tuple[ImageSource, str]:
    """The images whose labels are used, and in words how they were chosen.

    With --subset-list those whose file name it holds; else a seeded share of each class, at least one image.

    Raises:
        BurnError: an image has no label; the list cannot be read, or names images that are not there or not alone;
            a share of a part (--limit-train), which the figure would call a share of all.
    """
    if args.limit_train and not args.subset_list and args.fraction < 1:
        raise BurnError(
            f"--limit-train {args.limit_train}: --fraction {args.fraction:g} is of all labels; leave out --limit-train "
            "or give --fraction 1, for all of those images"
        )
    labels = source.labels()
    if args.subset_list:
        names, places = read_list(args.subset_list), defaultdict(list)
        for index in range(len(source)):
            places[os.path.basename(source.file_name(index))].append(index)
        for found, what in ((0, "are not in"), (2, "have a name that several have in")):
            if wrong := [name for name in names if min(len(places[name]), 2) == found]:
                raise BurnError(
                    f"--subset-list {args.subset_list}: {len(wrong)} of {len(names)} images {what} "
                    f"{source.description}; the first is {wrong[0]}"
                )
        chosen = sorted({places[name][0] for name in names})
        words = f"{len(chosen)} images of the list {os.path.basename(args.subset_list)}"
    else:
        rng = np.random.default_rng(args.seed)
        chosen = []
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            count = max(1, round(args.fraction * len(members)))
            chosen += rng.choice(members, count, replace=False).tolist()
        chosen.sort()
        share = "of all classes together" if args.limit_train else f"{args.fraction:.3%} of each class"
        words = f"{len(chosen)} images, {share}, seed {args.seed}"
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
    """Name of each start -> file of its weights (None: timm's own, or random ones). Raises BurnError for a --latent
    that is not there, or that no packed weights belong to, and for latent weights that have other signs than these."""
    given = args.latent not in (None, "none")
    if given and not os.path.isfile(args.latent):
        raise BurnError(f"--latent {args.latent}: no such file")
    packed = read_state_dict(checkpoint)[0] if checkpoint else {}
    if given and not is_packed(packed):
        what = f"{checkpoint} is not packed" if checkpoint else "--checkpoint or --model local-dir:... names those"
        raise BurnError(f"--latent goes beside packed weights: {what}")
    if checkpoint is None:
        return {"pretrained" if args.pretrained or ":" in args.model else "random": None}
    folder = checkpoint.absolute().parent
    latent = Path(args.latent or folder.parent / "latent.safetensors")
    found = given or args.latent is None and folder.name == "export" and latent.is_file()
    if not found or not is_packed(packed):
        return {"weights": checkpoint}  # an export of a stage with real-valued weights is its own latent file
    _require_same_signs(packed, checkpoint, latent)
    return {"packed": checkpoint, "latent": latent}


def _require_same_signs(packed: dict[str, torch.Tensor], checkpoint: Path, latent: Path) -> None:
    weights = read_state_dict(latent)[0]
    for name in packed_weight_names(packed):
        if name not in weights or not torch.equal(pack_weight(weights[name], name)[0], packed[f"{name}_bits"]):
            raise BurnError(
                f"--latent {latent}: {name} has not the signs that it has in {checkpoint}: another run's? "
                "--latent none starts from the packed weights alone"
            )


def _trained(
    args, device, train: ImageSource, file: Path | None, lr: float, multiplier: float, weight_decay: float, side: int,
    progress,
) -> nn.Module:
    """The network after fine-tuning from the weights in `file`; `progress` is called after each epoch."""
    torch.manual_seed(seed_for(args.seed, 0xF17E))
    model = load_model(args.model, file, num_classes=0, pretrained=args.pretrained or None)
    model.reset_classifier(train.num_classes)
    if hasattr(model, "set_input_size"):
        model.set_input_size(img_size=side)
    own = resolve_model_data_config(model)
    network = Backbone(model, own["mean"], own["std"], (side, side)).to(device)
    classifiers = model.get_classifier()  # several of a distilled network
    head = list(nn.ModuleList(classifiers if isinstance(classifiers, tuple) else [classifiers]).parameters())
    of_head = set(map(id, head))
    backbone = [parameter for parameter in model.parameters() if id(parameter) not in of_head]
    optimizer = torch.optim.SGD(
        [{"params": backbone, "lr": lr}, {"params": head, "lr": lr * multiplier}], momentum=MOMENTUM,
        weight_decay=weight_decay,
    )
    milestones = [round(share * args.epochs) for share in args.milestones]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.2)
    epochs = epochs_of_views(
        train, make_view(args.view, side, mirror_probability(args.dataset)), epochs=args.epochs,
        batch_size=batch_size(args, len(train)), seed=seed_for(args.seed), workers=args.workers, device=device,
    )
    network.train()
    for epoch in epochs:
        for views, labels in epoch:
            loss = F.cross_entropy(network(views), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        progress()
    return model


@torch.no_grad()
def _tested(args, device, model: nn.Module, test: ImageSource, config: dict) -> dict:
    """`top1`, `top5`, and of how many `images`, those that can be read; logits that are not finite count as wrong."""
    model.eval()
    outputs, targets = [], []
    for images, classes in eval_loader(test, eval_transform(config), args.batch_size, args.workers):
        outputs.append(model(images.to(device)).float().cpu())
        targets.append(classes)
    logits = torch.cat(outputs)
    labels = torch.where(torch.isfinite(logits).all(1), torch.cat(targets), -1)  # which is no class
    top1, top5 = (topk_accuracy(logits, labels, min(k, logits.shape[1])) for k in (1, 5))
    return {"top1": top1, "top5": top5, "images": len(labels)}


def grid_file(output: str) -> Path:
    """The file beside the result that keeps the finished points of the grid."""
    return Path(f"{output}.grid.json")


def _identity(args: argparse.Namespace, sources: list[ImageSource], files: list[Path | None]) -> dict:
    """What a kept point depends on. The points of another run are not taken over."""
    free = ("output", "lrs", "head_multipliers", "workers", "threads", "device", "batch_size")  # change no point
    settings = {name: value for name, value in vars(args).items() if name not in free}
    stamps = [file and [str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    images = [f"{source.description}, {source.listing_hash()}" for source in sources]
    versions = {"burn_timm": __version__, "timm": timm.__version__}
    return json.loads(json.dumps({**settings, "images": images, "files": stamps, **versions}))
