"""The options of the detection task, their checks, and the protocol that they amount to."""

import argparse
from pathlib import Path

from ...errors import BurnError
from .coco_ap import require_pycocotools
from .network import ANCHOR_SIZES, RATIOS
from .voc import check_name

SIZES = tuple(range(480, 801, 32))
OPTIMISERS = ("sgd", "adam", "adamw", "lamb", "lars")
# What a result depends on, beside data and initial weights; `iterations` and `milestones` only where they are reached.
DEFINING = (
    "neck", "bn", "iterations", "milestones", "warmup", "batch_size", "opt", "lr", "momentum", "weight_decay",
    "clip_grad", "min_sizes", "max_size", "anchor_sizes", "rois", "train_sets", "difficult", "seed",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what detection needs beyond the options of all tasks; the defaults are the published settings."""
    add = parser.add_argument_group("detection").add_argument
    default = "(default: %(default)s)"
    add("--neck", choices=("c4", "fpn"), default="c4", help=f"last stage as region head, or a pyramid {default}")
    add("--bn", choices=("train", "frozen"), default="train",
        help="the backbone's BatchNorm: train (batch 16, as published), or frozen, for pretrained weights and small "
        f"batches {default}")
    add("--train-sets", nargs="+", default=["2007:trainval", "2012:trainval"], metavar="YEAR:SET", help=default)
    add("--test-set", default="2007:test", metavar="YEAR:SET", help=default)
    add("--difficult", choices=("skip", "train"), default="train",
        help=f"difficult boxes in training; detectron2, in which the published recipe ran, trains with them {default}")
    add("--iterations", type=int, default=24000, metavar="N", help=default)
    add("--milestones", type=int, nargs="*", default=[18000, 22000], metavar="N", help=f"lr / 10 at these {default}")
    add("--warmup", type=int, default=100, metavar="N", help=f"iterations of linear warm-up {default}")
    add("--batch-size", type=int, default=16, metavar="N", help=f"images an iteration {default}")
    add("--opt", choices=OPTIMISERS, default="sgd", help=f"sgd: with --momentum, as published {default}")
    add("--lr", type=float, default=0.02, help=f"of batch 16; smaller batches want less {default}")
    add("--momentum", type=float, default=0.9, help=default)
    add("--weight-decay", type=float, default=1e-4, help=f"not of biases and BatchNorm {default}")
    add("--clip-grad", type=float, metavar="NORM", help="default: no clipping, as published")
    add("--min-sizes", type=int, nargs="+", default=list(SIZES), metavar="PIXELS",
        help="shorter sides, drawn for each training image (default: 480 to 800 in steps of 32)")
    add("--max-size", type=int, default=1333, metavar="PIXELS", help=f"longer side at most {default}")
    add("--test-min-size", type=int, default=800, metavar="PIXELS", help=default)
    add("--anchor-sizes", type=int, nargs="+", metavar="PIXELS",
        help=f"default: {' '.join(map(str, ANCHOR_SIZES))} (c4), 8 x stride of each level (fpn)")
    add("--rois", type=int, default=512, metavar="N", help=f"regions of each image that train the head {default}")
    add("--test-proposals", type=int, default=1000, metavar="N", help=default)
    add("--precise-bn", type=int, default=200, metavar="N",
        help=f"batches to re-estimate BatchNorm on before testing, as published; 0: none {default}")
    add("--eval-train", action="store_true", help="report the training photos' figures as well")
    add("--log-interval", type=int, default=20, metavar="N", help=f"iterations between logged lines {default}")
    add("--checkpoint-interval", type=int, default=1000, metavar="N", help=f"iterations between checkpoints {default}")
    add("--resume", action="store_true",
        help="go on from the checkpoint beside --output, if there is one; --iterations and --milestones to come may "
        "have changed")


def check(args: argparse.Namespace) -> None:
    """Refuse options that cannot be followed, before anything is read. Raises BurnError."""
    if not args.data_dir:
        raise BurnError("--data-dir is missing: the folder that holds VOCdevkit/VOC2007 (and VOC2012)")
    for name in args.train_sets:
        check_name(name, "--train-sets")
    check_name(args.test_set, "--test-set")
    if args.test_set in args.train_sets:
        raise BurnError(f"--test-set {args.test_set} is among --train-sets; --eval-train reports the training photos")
    positive = ("iterations", "batch_size", "max_size", "test_min_size", "rois", "test_proposals", "log_interval",
                "checkpoint_interval")
    for option in positive:
        if getattr(args, option) < 1:
            raise BurnError(f"--{option.replace('_', '-')} must be at least 1, not {getattr(args, option)}")
    for option in ("warmup", "precise_bn", "weight_decay", "momentum"):
        if getattr(args, option) < 0:
            raise BurnError(f"--{option.replace('_', '-')} must not be negative: {getattr(args, option)}")
    for option in ("lr", "clip_grad"):
        value = getattr(args, option)
        if value is not None and not 0 < value < float("inf"):
            raise BurnError(f"--{option.replace('_', '-')} must be positive, not {value}")
    for option in ("min_sizes", "anchor_sizes"):
        if any(size < 1 for size in getattr(args, option) or ()):
            raise BurnError(f"--{option.replace('_', '-')} must be positive, not {getattr(args, option)}")
    if max(*args.min_sizes, args.test_min_size) > args.max_size:
        raise BurnError(f"--max-size {args.max_size} is below --min-sizes or --test-min-size")
    if sorted(args.milestones) != args.milestones or any(m < 1 for m in args.milestones):
        raise BurnError(f"--milestones must be positive and rise, not {args.milestones}")
    checkpoint = beside(args.output, "checkpoint.pt")
    if checkpoint.exists() and not args.resume:
        raise BurnError(f"{checkpoint}: a run is there already; add --resume to go on, or choose another --output")
    require_pycocotools()


def beside(output: str, name: str) -> Path:
    """The file that lies beside RESULT.json: RESULT_name."""
    path = Path(output)
    return path.with_name(f"{path.stem}_{name}")


def protocol(args: argparse.Namespace) -> dict:
    """The resolved settings, for the result file."""
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
