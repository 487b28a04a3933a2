"""The options of train_burn.py: timm's spelling where timm has the flag. Ranges are in the types."""

import argparse
from collections.abc import Callable
from typing import Any

from ..arguments import KeyValues, Parser, above_zero, fraction, natural, not_negative, positive, whole
from ..data import TEST_SPLITS
from ..data.cache import CACHES
from ..data.views import INTERPOLATIONS, VIEWS
from ..losses import FS_LOSSES, KL_DIRECTIONS
from ..methods import METHODS
from ..methods.burn import ADAPTERS, TARGET_HEADS, TEACHER_NORMS
from ..nn.binary import ACT_GRADS, WEIGHT_GRADS
from ..schedules import LAMBDA_SCHEDULES, LR_SCHEDULES

COMPILE_FROM = 1000  # steps of a stage that make up for a minute of compiling
# Stages in the order in which a run may go through them; `fp` is any floating-point timm model as it is.
STAGES = ("w32a32", "w32a1", "w1a1", "fp")

_DESCRIPTION = (
    "  accelerate launch train_burn.py\n"
    "  accelerate launch train_burn.py --data-dir PHOTOS --teacher resnet50.a1_in1k\n"
    "  accelerate launch train_burn.py --data-dir PHOTOS --teacher resnet50.a1_in1k --recipe distill \\\n"
    "      --img-size 64 --epochs 4 --output output/mine --resume auto\n\n"
    "The first is a demonstration, without a download. The second trains a 1-bit network on a folder of photos without "
    "labels: no flag is needed but --data-dir and --teacher. The third takes loss and rate of the weights in the "
    "package, smaller images and less time, and goes on where it was killed. The same script trains by other methods, "
    "and teachers. Words and recipes are explained in docs/train.md."
)


def build_parser(prog: str = "train_burn.py") -> Parser:
    parser = Parser(prog=prog, usage="accelerate launch train_burn.py [options]", description=_DESCRIPTION)
    _add_model(parser.add_argument_group("what to train").add_argument)
    _add_teacher(parser.add_argument_group("teacher, for the methods that have one").add_argument)
    _add_data(parser.add_argument_group("data").add_argument)
    _add_run(parser.add_argument_group("output, log and resume").add_argument)
    _add_views(parser.add_argument_group("views of the images").add_argument)
    _add_optimisation(parser.add_argument_group("optimisation").add_argument)
    _add_hardware(parser.add_argument_group("speed and memory").add_argument)
    _add_heads(_of_methods(parser.add_argument_group("heads and losses; each option with its methods").add_argument))
    add = parser.add_argument_group("BURN's loss").add_argument
    _add_burn(_of_methods(add))
    add("--reset-target-head", action="store_true", help="start every stage with a fresh target head (the "
        "paper's control)")
    return parser


def option_actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The parser's options by the names that their values have."""
    return {action.dest: action for action in parser._actions if action.dest not in ("help", argparse.SUPPRESS)}


def _add_model(add: Callable) -> None:
    add("--recipe", help="settings by name (burn_timm/recipes), or a YAML file of your own; options on the "
        "command line win, and --epochs or --max-steps replaces both of the recipe")
    add("--method", default="burn", choices=METHODS, help="how the network is trained")
    add("--model", default="reactnet_a", help="timm name of the network to train and export (the smallest is "
        "reactnet_a_025)")
    add("--model-kwargs", nargs="*", default={}, action=KeyValues, metavar="KEY=VALUE",
        help="arguments for timm.create_model")
    add("--stages", nargs="+", choices=STAGES, help="bits of weights and activations, one stage after the other; "
        "default: w32a1 w1a1 for binary networks, fp for others")
    add("--act-grad", default="approx", choices=ACT_GRADS, help="gradient of the activations' sign")
    add("--weight-grad", default="clip", choices=WEIGHT_GRADS, help="gradient of the weights' sign: 1 where |w| <= 1 "
        "(ReActNet's), or pass: everywhere (BURN's released code; no --count-bits)")
    add("--initial-checkpoint", default="", metavar="FILE", help="weights that the network starts from, a file "
        "or a folder; packed ones start as scale * sign")


def _add_teacher(add: Callable) -> None:
    add("--teacher", help="any timm model, CNN or ViT, hf-hub:... or local-dir:...")
    add("--teacher-kwargs", nargs="*", default={}, action=KeyValues, metavar="KEY=VALUE",
        help="arguments for timm.create_model")
    add("--teacher-checkpoint", default="", metavar="FILE", help="a file with the teacher's weights")
    add("--teacher-pretrained", default=True, action=argparse.BooleanOptionalAction, help="load pretrained weights")
    taught = ", ".join(f"{name} {method.teacher_output}" for name, method in METHODS.items() if method.teacher_output)
    add("--teacher-output", choices=("features", "logits"), help=f"features before its classifier, or the "
        f"classifier's output; default: {taught}")
    add("--teacher-img-size", type=positive, metavar="PIXELS", help="side of its input; default: its own configuration")


def _add_data(add: Callable) -> None:
    add("--dataset", help="a folder's path, digits, digits_in_photos, cub, birdsnap, places205, or timm's schemes: "
        "folder, torch/..., hfds/..., wds/...; default: the folder --data-dir, digits without it")
    add("--data-dir", help="folder of the images; of any depth, with or without folders of classes")
    add("--train-split", default="train", help="split to train on")
    add("--val-split", help="labelled split for the kNN figures of summary.json, or none; default: the first of "
        f"{', '.join(TEST_SPLITS)} that there is, where it fits")
    add("--input-key", help="column of the images in hfds/... and wds/..., or endings of the files in a folder "
        "('.png;.bmp'); default: the usual names")
    add("--target-key", help="name of the column of labels; default: the usual names")
    add("--dataset-download", action="store_true", help="let torchvision download its data, torch/...")
    add("--workers", type=natural, default=2, metavar="N", help="processes that load images, for each training process")
    add("--cache", default="auto", choices=CACHES, help="keep decoded images: in memory, or in a file in --cache-dir "
        "that later runs use too; auto: in memory where they are of one size and take 512 MB at most")
    add("--cache-size", type=positive, metavar="PIXELS", help="keep images reduced to a shorter side of so many "
        "pixels; views are then made from these smaller images. Default: full size, which must be that of all images")
    add("--cache-dir", help="folder of --cache disk and --cache-teacher; default: ~/.cache/burn_timm")
    add("--cache-teacher", type=natural, default=0, metavar="N", help="let the teacher see N fixed views of each "
        "image, once, and keep its outputs in --cache-dir (float16); a step draws one of the N, and the student sees "
        "it at its own size. 1: --view none; 0: a new view in every step, seen by both")


def _add_views(add: Callable) -> None:
    add("--img-size", type=positive, default=224, metavar="PIXELS", help="side of the views")
    add("--export-img-size", type=positive, metavar="PIXELS", help="side of the exported input size and of the kNN "
        "figures, where the network is better at another size than it was trained at (not for networks of a fixed "
        "size); default: --img-size, also where that is given beside a recipe")
    add("--small-img-size", type=positive, metavar="PIXELS", help="side of the small views (swav); default: 3/7 of "
        "--img-size, as 96 is of 224, also where that is given beside a recipe")
    own = ", ".join(f"{name} {_shown(method.default_view)}" for name, method in METHODS.items())
    add("--view", choices=VIEWS, help="augmentation. none: the square in the middle of the photo; light: crop and "
        f"colours, both mild; burn, moco, ...: as in the paper of that name. Default: {own}")
    add("--train-interpolation", choices=INTERPOLATIONS,
        help="of the views' crops; default: each view's own, which is bicubic but for moco_original")
    add("--hflip", type=fraction, help="probability of the horizontal flip; default: 0.5, and 0 for digits, "
        "digits_in_photos, torch/mnist, qmnist and kmnist")
    add("--views-on", default="workers", choices=("workers", "device"), help="where views are made: one by one in the "
        "workers, or batched on the training device; workers then decode and crop only")


def _add_optimisation(add: Callable) -> None:
    add("--epochs", type=positive, default=200, help="passes through the images in each stage")
    add("--max-steps", type=positive, metavar="N", help="optimiser steps per stage; the shorter of this and --epochs "
        "holds")
    add("--batch-size", type=whole(2), help="images per process and forward pass; default: 256, and 32 on a CPU")
    add("--grad-accum-steps", type=positive, default=1, metavar="N",
        help="batches per process and optimiser step; losses that compare images (relations, SimCLR's, SwAV's) see one "
        "batch at a time; default: accelerate launch's --gradient_accumulation_steps, or 1")
    add("--opt", default="adam", help="any optimiser of timm")
    add("--lr", type=not_negative, default=3e-4, help="peak learning rate")
    add("--weight-decay", type=not_negative, nargs="+", default=[0.0], help="one value for all stages, or one for each")
    add("--weight-decay-on", default="weights", choices=("weights", "convolutions", "all"),
        help="weights: all but biases, shifts and BatchNorm (timm's rule)")
    add("--momentum", type=not_negative, default=0.9, help="momentum of optimisers that have one")
    add("--sched", default="cosine", choices=LR_SCHEDULES, help="decay of the learning rate after the warm-up")
    add("--warmup-epochs", type=not_negative, default=0.0, help="epochs of each stage in which the learning rate rises")
    add("--min-lr", type=not_negative, default=0.0, help="learning rate at which the decay ends")
    add("--warmup-prefix", default=True, action=argparse.BooleanOptionalAction, help="the decay begins after the "
        "warm-up; no: it begins at step 0, and the warm-up multiplies it")
    add("--sched-on-updates", default=True, action=argparse.BooleanOptionalAction, help="the decay moves in every "
        "step; no: from epoch to epoch")
    add("--clip-grad", type=above_zero, help="largest gradient norm; default: no limit")
    add("--drop", type=not_negative, default=0.0, help="dropout rate of the network")
    add("--seed", type=int, default=42, help="of weights, order of images and views; resuming needs the same")


def _add_hardware(add: Callable) -> None:
    add("--channels-last", action=argparse.BooleanOptionalAction,
        help="memory layout of the networks; default: with mixed precision, and where bits are counted")
    add("--compile", action=argparse.BooleanOptionalAction,
        help="torch.compile for student and teacher; needs a C++ compiler on a CPU. Default: where it works, if a "
        f"stage has {COMPILE_FROM} steps or more")
    add("--count-bits", action=argparse.BooleanOptionalAction,
        help="binary convolutions count bits in the forward pass, exactly, and keep bits for the backward one; on "
        "CPUs, with a C compiler. Default: where it works")
    add("--grad-checkpointing", action="store_true", help="less memory: compute the student's stages again, backward")
    add("--sync-bn", default=False, action=argparse.BooleanOptionalAction,
        help="BatchNorm statistics over all processes (GPUs only)")
    add("--sync-bn-of", default="all", choices=("all", "heads"), help="what --sync-bn is for: all that is trained, or "
        "the heads behind the networks")
    add("--threads", type=positive, metavar="N", help="CPU threads per process; default: cores divided by local "
        "processes")


def _add_heads(add: Callable) -> None:
    add("--head-dim", "outputs of the heads", type=positive)
    add("--hidden-dim", "width of the heads' hidden layers", type=positive)
    add("--head-layers", "layers of the projection head; version 2 of SimCLR has 3", type=int, choices=(2, 3))
    add("--head-norm", "BatchNorm in the projection head, which the published heads have not",
        action=argparse.BooleanOptionalAction)
    add("--temperature", "of the softmaxes, or of the contrastive loss", type=above_zero)
    add("--queue-size", "images in the queue, over all processes", type=positive)
    add("--target-momentum", "of the momentum target (byol: at the start)", type=fraction)
    add("--prototypes", "number of prototypes", type=whole(2))
    add("--sinkhorn-epsilon", "entropy regularisation of the assignment", type=above_zero)
    add("--sinkhorn-iterations", "normalisations of the assignment", type=positive)
    add("--queue-start-epoch", "epoch of the stage from which the queue is used", type=not_negative)
    add("--freeze-prototypes-epochs", "epochs of the stage in which the prototypes do not move", type=not_negative)
    add("--contrastive-weight", "of the contrastive loss beside distillation; 0: none", type=not_negative)
    add("--jigsaw-weight", "of the jigsaw branch; 0: none", type=not_negative)
    add("--lighting", "strength of the colour noise on the images (AlexNet's; ReActNet has 0.1)", type=not_negative)
    add("--small-views", "small views of each image (multi-crop)", type=natural)


def _add_burn(add: Callable) -> None:
    add("--lambda-0", "first weight of the feature similarity loss", type=fraction)
    add("--lambda-T", "last weight of it", type=fraction)
    add("--lambda-schedule", "how the weight goes from first to last; step: 1 in the first half, then 0",
        choices=LAMBDA_SCHEDULES)
    add("--fs-loss", "feature similarity: cosine, l1 and l2 are the paper's, unit-l2 is the released code's; relations "
        "compares each image with all others of its batch (SEED), assignment takes features as soft classes (S2-BNN)",
        choices=FS_LOSSES)
    add("--fs-temperature", "of --fs-loss assignment and relations", type=above_zero)
    add("--adapter", "layer that gives the student's features the teacher's size for this loss; linear: left out where "
        "the sizes are equal",
        choices=ADAPTERS)
    add("--fs-on", "what this loss compares: features, or the heads' outputs (released code)",
        choices=("feature", "projection"))
    add("--views", "same: both networks see one view; cross: each sees the other of two (released code)",
        choices=("same", "cross"))
    add("--kl-direction", "student-target is D(student || target), the paper's; target-student the released code's",
        choices=KL_DIRECTIONS)
    add("--target-head", "how the target head learns: by BURN's loss (paper), not at all (released code), or by the "
        "information term alone", choices=TARGET_HEADS)
    add("--teacher-norm", "the teacher's BatchNorm: by its running statistics (paper), or by the batch (released code)",
        choices=TEACHER_NORMS)
    add("--information-weight", "weight of a term that keeps the target head from giving every image the same output; "
        "0, none, is the paper", type=not_negative)


def _add_run(add: Callable) -> None:
    add("--output", help="folder of the run; default: output/DATE-MODEL")
    add("--resume", help="`auto`: go on from OUTPUT's checkpoint if there is one; or the path of a checkpoint")
    add("--checkpoint-steps", type=natural, default=0, metavar="N",
        help="also save every N optimiser steps, not only after each epoch; 0: only after each epoch")
    add("--log-interval", type=positive, default=10, metavar="N", help="optimiser steps between logged lines")
    add("--knn-steps", type=natural, default=0, metavar="N", help="log the student's kNN accuracy every N optimiser "
        "steps, on 10,000 and 2,000 images at most of --train-split and --val-split; 0: only at the end")
    add("--linear-steps", type=natural, default=0, metavar="N", help="the same for linear evaluation; 0: never")
    add("--log-with", default="tensorboard", help="a tracker that accelerate knows (wandb, ...), or none")
    add("--push-to-hub", metavar="REPO", help="upload the export folder to this Hub repository; it must be empty, "
        "or as this run (its --output) left it")


def _of_methods(add: Callable) -> Callable:
    """`add` for options that some methods take: help shows which, with the default of each from its signature."""
    options = {method: cls.options() for method, cls in METHODS.items()}

    def of_methods(flag: str, text: str, **kwargs: Any) -> None:
        name = flag.lstrip("-").replace("-", "_")
        defaults = ", ".join(f"{method} {_shown(own[name])}" for method, own in options.items() if name in own)
        add(flag, dest=name, help=f"{text}; default: {defaults}", **kwargs)

    return of_methods


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return "+".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
