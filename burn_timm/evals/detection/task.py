"""The task from top to bottom: options, photos, detector, training, figures."""

import argparse
import hashlib
import time
from pathlib import Path

import torch

from ...arguments import above_zero, natural, not_negative, positive
from ...checkpoints import state_hash
from ...errors import BurnError, require_package
from ...runs import draw_curves
from .data import CLASSES, PUBLISHED_IMAGES, counts, read_split, trainable
from .measure import figures, predict
from .network import ANCHOR_SIZES, RATIOS, build_detector
from .training import fit, precise_batchnorm

DESCRIPTION = "Faster R-CNN fine-tuned on Pascal VOC (C4 as published, or FPN): 11-point mAP, AP50, AP75"
SIZES = tuple(range(480, 801, 32))
# What a result depends on, beside data and initial weights.
DEFINING = (
    "neck", "bn", "iterations", "milestones", "warmup", "batch_size", "opt", "lr", "momentum", "weight_decay",
    "clip_grad", "min_sizes", "max_size", "anchor_sizes", "rois", "train_sets", "difficult", "seed",
)
PANELS = (
    ("losses (log)", ("loss", "loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")),
    ("gradient norm (log)", ("grad_norm",)),
    ("learning rate", ("lr",)),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what detection needs beyond the options of all tasks; the defaults are the published settings."""
    add = parser.add_argument_group("detection").add_argument
    sets = {"choices": tuple(PUBLISHED_IMAGES), "metavar": "YEAR:SET"}
    number, pixels = {"type": positive, "metavar": "N"}, {"type": positive, "metavar": "PIXELS"}
    add("--neck", choices=("c4", "fpn"), default="c4", help="last stage as region head, or a pyramid")
    add("--bn", choices=("train", "frozen"), default="train",
        help="the backbone's BatchNorm: train (batch 16, as published), or frozen, for pretrained weights and small "
        "batches")
    add("--train-sets", nargs="+", default=["2007:trainval", "2012:trainval"], **sets,
        help=f"sets to train on: {', '.join(PUBLISHED_IMAGES)} (default: 2007:trainval 2012:trainval)")
    add("--test-set", default="2007:test", **sets, help="set to test on")
    add("--difficult", choices=("skip", "train"), default="train",
        help="difficult boxes in training; detectron2, in which the published recipe ran, trains with them")
    add("--iterations", default=24000, **number, help="batches to train on")
    add("--milestones", nargs="*", default=[18000, 22000], **number,
        help="iterations from which the learning rate is a tenth (default: 18000 22000)")
    add("--warmup", type=natural, default=100, metavar="N", help="iterations of linear warm-up")
    add("--batch-size", default=16, **number, help="images an iteration")
    add("--opt", choices=("sgd", "adam", "adamw", "lamb", "lars"), default="sgd",
        help="optimiser; sgd: with --momentum, as published")
    add("--lr", type=above_zero, default=0.02, help="learning rate of batch 16; smaller batches want less")
    add("--momentum", type=not_negative, default=0.9, help="of sgd and lars")
    add("--weight-decay", type=not_negative, default=1e-4, help="not of biases and BatchNorm")
    add("--clip-grad", type=above_zero, metavar="NORM", help="default: no clipping, as published")
    add("--min-sizes", nargs="+", default=list(SIZES), **pixels,
        help="shorter sides, drawn for each training image (default: 480 to 800 in steps of 32)")
    add("--max-size", default=1333, **pixels, help="longer side at most")
    add("--test-min-size", default=800, **pixels, help="shorter side in testing")
    add("--anchor-sizes", nargs="+", **pixels,
        help=f"default: {' '.join(map(str, ANCHOR_SIZES))} (c4), 8 x stride of each level (fpn)")
    add("--rois", default=512, **number, help="regions of each image that train the head")
    add("--test-proposals", default=1000, **number, help="regions of each test image")
    add("--precise-bn", type=natural, default=200, metavar="N",
        help="batches to re-estimate BatchNorm on before testing, as published; 0: none")
    add("--eval-train", action="store_true", help="report the training photos' figures as well")
    add("--log-interval", default=20, **number, help="iterations between logged lines")
    add("--checkpoint-interval", default=1000, **number, help="iterations between checkpoints")
    add("--resume", action="store_true",
        help="go on from the checkpoint beside --output, if there is one; --iterations and --milestones to come may "
        "have changed")


def evaluate(args: argparse.Namespace, device: torch.device, weights: str = "") -> dict:
    """Fine-tune a detector on the training sets and measure it on the test set.

    Beside args.output RESULT.json it writes RESULT_log.jsonl, RESULT_curves.png and RESULT_checkpoint.pt.

    Args:
        args: model, checkpoint, pretrained, data_dir, workers, seed, output, and what `add_options` adds.
        device: Where the detector trains.
        weights: Where the backbone's came from, for the protocol.

    Returns:
        `value`: the mean average precision of the test set, VOC 2007's (a fraction); `protocol`; `dataset`: splits and
        counts; `extra`: `test` (and with --eval-train `train`) with the VOC and COCO figures, `training`, `files`.

    Raises:
        BurnError: The options, the data or the weights are not what they should be.
    """
    files = {name: _beside(args.output, name) for name in ("log.jsonl", "curves.png", "checkpoint.pt")}
    _check(args, files["checkpoint.pt"])
    test = read_split(args.data_dir, args.test_set)
    sets = {name: read_split(args.data_dir, name) for name in args.train_sets}
    photos = [image for images in sets.values() for image in images]
    if shared := {image.path for image in photos}.intersection(image.path for image in test):
        raise BurnError(f"--test-set {args.test_set}: {len(shared)} of its {len(test)} photos are in --train-sets too")
    train = trainable(photos, difficult=args.difficult == "train")
    torch.manual_seed(args.seed)
    detector = build_detector(args).to(device)
    protocol = {
        **_protocol(args), "parameters": sum(p.numel() for p in detector.parameters()), "device": str(device),
        "weights": weights,
    }
    dataset = {
        "name": "Pascal VOC layout", "data_dir": args.data_dir, "classes": len(CLASSES),
        "train": [counts(name, images) for name, images in sets.items()],
        "trained_on": {"images": len(train), "boxes": sum(len(image.boxes) for image in train)},
        "test": counts(args.test_set, test),
    }
    identity = {name: getattr(args, name) for name in DEFINING if name != "iterations"}  # a run may be prolonged
    listing = "\n".join(f"{image.path.name} {image.boxes.tolist()} {image.labels.tolist()}" for image in train)
    identity |= {"model": args.model, "images": len(train), "initial_weights": state_hash(detector)}
    identity["listing (names and boxes of the photos)"] = hashlib.sha256(listing.encode()).hexdigest()
    training = fit(detector, train, args, device, identity, files["checkpoint.pt"], files["log.jsonl"])
    draw_curves(files["log.jsonl"], files["curves.png"], PANELS, key="iteration")
    training["precise_bn_layers"] = precise_batchnorm(detector, train, args, device)

    started = time.perf_counter()
    extra = {"test": figures(predict(detector, test, device, args.workers, "test photos"), test)}
    if args.eval_train:
        extra["train"] = figures(predict(detector, photos, device, args.workers, "training photos"), photos)
    training["test_seconds"] = round(time.perf_counter() - started, 1)
    extra |= {"training": training, "files": {name: str(path) for name, path in files.items()}}
    return {"value": extra["test"]["voc"]["map"], "protocol": protocol, "dataset": dataset, "extra": extra}


def _check(args: argparse.Namespace, checkpoint: Path) -> None:
    """Raise BurnError for options that do not go together, before anything is read."""
    if not args.data_dir:
        raise BurnError("--data-dir is missing: the folder that holds VOCdevkit/VOC2007 (and VOC2012)")
    if args.test_set in args.train_sets:
        raise BurnError(f"--test-set {args.test_set} is among --train-sets; --eval-train reports the training photos")
    if max(*args.min_sizes, args.test_min_size) > args.max_size:
        raise BurnError(f"--max-size {args.max_size} is below --min-sizes or --test-min-size")
    if args.momentum != 0.9 and args.opt not in ("sgd", "lars"):
        raise BurnError(f"--momentum has no effect with --opt {args.opt}; leave one of them out")
    if sorted(args.milestones) != args.milestones:
        raise BurnError(f"--milestones must rise: {' '.join(map(str, args.milestones))}")
    if checkpoint.exists() and not args.resume:
        raise BurnError(f"{checkpoint}: a run is there already; add --resume to go on, or choose another --output")
    require_package("pycocotools", "detection", "detection")


def _beside(output: str, name: str) -> Path:
    """The file that lies beside RESULT.json: RESULT_name."""
    path = Path(output)
    return path.with_name(f"{path.stem}_{name}")


def _protocol(args: argparse.Namespace) -> dict:
    """The settings in full, for the result file."""
    c4 = args.neck == "c4"
    return {
        "detector": "Faster R-CNN, whole network fine-tuned; " + (
            "C4: last stage and a BatchNorm on 14x14 regions" if c4 else "pyramid: two-layer head on 7x7 regions"
        ),
        **{name: getattr(args, name) for name in DEFINING},
        "optimiser": f"{args.opt}; lr / 10 at the milestones",
        "batchnorm": "of the backbone frozen" if args.bn == "frozen" else (
            f"trained, statistics of {args.batch_size} images in one process"
        ),
        "precise_bn": args.precise_bn,
        "anchors": {"sizes": args.anchor_sizes or (list(ANCHOR_SIZES) if c4 else "8 x stride"), "ratios": list(RATIOS)},
        "augmentation": "horizontal flip (p .5), shorter side drawn from min_sizes",
        "test": {"min_size": args.test_min_size, "proposals": args.test_proposals, "score_threshold": 0.05,
                 "nms": 0.5, "detections_per_image": 100},
        "metric": "mean over classes and IoU .50:.05:.95 of VOC 2007's 11-point average precision, difficult objects "
        "counted neither way; a fraction",
    }
