"""Options of train_burn.py: timm's spelling where timm has the flag, a recipe for defaults, the command line on top."""

import argparse
import importlib.resources
import inspect
import shlex
from pathlib import Path

import torch
import yaml
from timm.optim import create_optimizer_v2
from timm.utils import ParseKwargs

from ..checkpoints import architecture_of, burn_models, require_model
from ..data.cache import CACHES
from ..data.loader import VIEWS_ON
from ..data.views import INTERPOLATIONS, VIEWS
from ..errors import BurnError
from ..heads import HEAD_TYPES
from ..losses import FS_LOSSES, KL_DIRECTIONS
from ..methods import METHODS
from ..methods.burn import TARGET_HEADS
from ..schedules import LAMBDA_SCHEDULES, LR_SCHEDULES
from .speed import COMPILE_FROM

# Stage name -> (weight_bits, act_bits); `fp` is any floating-point timm model as it is.
STAGES = {"w32a1": (32, 1), "w1a1": (1, 1), "w32a32": (32, 32), "fp": None}

# Options that may differ between a run and its resumption: none of them changes what is computed.
FREE_ON_RESUME = {
    "output", "resume", "workers", "threads", "checkpoint_steps", "log_interval", "log_with", "push_to_hub", "recipe",
    "data_dir", "demo", "val_split", "teacher", "teacher_checkpoint", "teacher_pretrained", "command", "cache",
    "cache_dir", "knn_steps", "linear_steps", "export_img_size",
}

DEMO_OPTIONS = {"demo", "epochs", "max_steps", "output"}

LEAST = {
    "epochs": 1, "max_steps": 1, "batch_size": 2, "grad_accum_steps": 1, "img_size": 1, "log_interval": 1,
    "threads": 1, "head_dim": 1, "teacher_img_size": 1, "workers": 0, "checkpoint_steps": 0, "lr": 0,
    "weight_decay": 0, "warmup_epochs": 0, "clip_grad": 0, "hidden_dim": 1, "queue_size": 1, "prototypes": 2,
    "sinkhorn_iterations": 1, "queue_start_epoch": 0, "freeze_prototypes_epochs": 0, "contrastive_weight": 0,
    "jigsaw_weight": 0, "cache_teacher": 0, "cache_size": 1, "knn_steps": 0, "linear_steps": 0, "small_views": 0,
    "small_img_size": 1, "information_weight": 0, "momentum": 0, "drop": 0, "export_img_size": 1,
}


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise BurnError(f"{message} (see --help)")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="train_burn.py", formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False,
        description="Train a binary network without labels under a frozen floating-point teacher (BURN), or a "
        "teacher itself (SimCLR). Without arguments: a demonstration on scanned digits, no download.",
    )
    add = parser.add_argument_group("what to train").add_argument
    add("--recipe", help="name in burn_timm/recipes or a YAML file: defaults for all options below")
    add("--demo", action="store_true", help="the argument-free run; takes --epochs, --max-steps and --output besides")
    add("--method", default="burn", choices=METHODS)
    add("--model", default="reactnet_a", help="timm name of the network to train and export")
    add("--model-kwargs", nargs="*", default={}, action=ParseKwargs, help="key=value arguments of the model")
    add("--stages", nargs="+", choices=STAGES, help="default: w32a1 w1a1 for binary networks, fp for others")
    add("--act-grad", default="approx", choices=("approx", "clip"), help="gradient of the activations' sign")
    add("--initial-checkpoint", default="", help="weights that the network starts from")

    add = parser.add_argument_group("teacher (h_zeta), for the methods that have one").add_argument
    add("--teacher", help="any timm name, CNN or ViT, hf-hub:... or local-dir:...")
    add("--teacher-kwargs", nargs="*", default={}, action=ParseKwargs, help="key=value arguments of the teacher")
    add("--teacher-checkpoint", default="", help="file with the teacher's weights")
    add("--teacher-pretrained", default=True, action=argparse.BooleanOptionalAction, help="load pretrained weights")
    add("--teacher-output", choices=("features", "logits"), help="what is taken from it; default: the method's own")
    add("--teacher-img-size", type=int, help="side in pixels of the teacher's input; default: its own configuration")

    add = parser.add_argument_group("data").add_argument
    add(
        "--dataset", help="digits, or timm's schemes: a folder, torch/..., hfds/..., wds/...; default: the folder "
        "--data-dir, digits without it",
    )
    add("--data-dir", help="root folder of the dataset")
    add("--train-split", default="train")
    add("--val-split", help="labelled split for kNN figures in summary.json; default: the usual names, none: skip")
    add("--input-key", help="image column (hfds, wds)")
    add("--target-key", help="label column (hfds, wds)")
    add("--dataset-download", action="store_true", help="let torchvision or datasets download")
    add("--img-size", type=int, default=224, help="side in pixels of the views")
    add(
        "--export-img-size", type=int, help="side in pixels of the exported input size and of the kNN figures, where "
        "the network is better at another size than it was trained at (not for networks of a fixed size); default: "
        "--img-size, also where that is given beside a recipe",
    )
    add("--view", choices=VIEWS, help="augmentation; default: the method's own")
    add(
        "--train-interpolation", choices=INTERPOLATIONS,
        help="of the views' crops; default: each view's own, which is bicubic but for moco_original",
    )
    add("--hflip", type=float, help="probability of the horizontal flip; default: 0.5, and 0 for digits")
    add("--workers", type=int, default=2, help="loader processes per training process")
    add(
        "--cache", default="auto", choices=CACHES, help="keep decoded images: in memory, or in a file in --cache-dir "
        "that later runs use too; auto: in memory where they are of one size and take 512 MB at most",
    )
    add(
        "--cache-size", type=int, metavar="PIXELS", help="keep images reduced to a shorter side of so many pixels; "
        "views are then made from these smaller images. Default: as decoded, which takes images of one size",
    )
    add("--cache-dir", help="folder of --cache disk and --cache-teacher; default: ~/.cache/burn_timm")
    add(
        "--cache-teacher", type=int, default=0, metavar="N", help="let the teacher see N fixed views of each image, "
        "once, and keep its outputs in --cache-dir (float16); a step draws one of the N, and the student sees it at "
        "its own size. 1: the whole photo, whatever --view says; 0: a new view and the teacher's answer in every step",
    )
    add(
        "--views-on", default="workers", choices=VIEWS_ON, help="where views are made: one by one in the workers, or "
        "batched on the training device; workers then decode only (and crop, where images are large or differ in size)",
    )

    add = parser.add_argument_group("optimisation").add_argument
    add("--epochs", type=int, default=200, help="per stage")
    add("--max-steps", type=int, help="optimiser steps per stage; the shorter of this and --epochs holds")
    add("--batch-size", type=int, default=256, help="images per process and forward pass")
    add("--grad-accum-steps", type=int, default=1)
    add("--opt", default="adam", help="any timm optimiser")
    add("--lr", type=float, default=3e-4, help="peak learning rate")
    add("--weight-decay", type=float, nargs="+", default=[0.0], help="one for all stages, or one for each")
    add("--momentum", type=float, default=0.9, help="of optimisers that have one")
    add("--sched", default="cosine", choices=LR_SCHEDULES)
    add("--warmup-epochs", type=float, default=0.0)
    add("--clip-grad", type=float, help="largest gradient norm")
    add("--drop", type=float, default=0.0, help="dropout rate of the trained network")
    add(
        "--channels-last", default=None, action=argparse.BooleanOptionalAction,
        help="memory layout of the networks; default: with mixed precision, and where bits are counted",
    )
    add(
        "--compile", default=None, action=argparse.BooleanOptionalAction,
        help="torch.compile for student and teacher; needs a C++ compiler on a CPU. Default: where it works, if a "
        f"stage has {COMPILE_FROM} steps or more",
    )
    add(
        "--count-bits", default=None, action=argparse.BooleanOptionalAction,
        help="binary convolutions count bits in the forward pass, exactly, and keep bits for the backward one; on "
        "CPUs, with numba. Default: where it works",
    )
    add("--grad-checkpointing", action="store_true", help="less memory: compute the student's stages again, backward")
    add(
        "--sync-bn", default=False, action=argparse.BooleanOptionalAction,
        help="BatchNorm statistics over all processes (GPUs only)",
    )
    add("--seed", type=int, default=42)

    add = parser.add_argument_group("heads and losses; default: the method's own").add_argument
    add("--head-dim", type=int, help="outputs of the heads (2000 for burn)")
    add("--temperature", type=float, help="of the softmaxes, or of the contrastive loss (1.0 for burn)")
    add("--hidden-dim", type=int, help="width of the heads' hidden layers")
    add("--head-layers", type=int, choices=(2, 3), help="layers of the projection head (simclr; version 2 has 3)")
    add(
        "--head-norm", default=None, action=argparse.BooleanOptionalAction,
        help="BatchNorm in the projection head (mocov2, s2bnn, infomin), which the published heads have not",
    )
    add("--queue-size", type=int, help="images in the queue (mocov2, s2bnn, swav), over all processes")
    add("--target-momentum", type=float, help="of the momentum target (mocov2, s2bnn; byol: at the start)")
    add("--prototypes", type=int, help="number of prototypes (swav)")
    add("--sinkhorn-epsilon", type=float, help="entropy regularisation of the assignment (swav)")
    add("--sinkhorn-iterations", type=int, help="(swav)")
    add("--queue-start-epoch", type=float, help="epoch of the stage from which the queue is used (swav)")
    add("--freeze-prototypes-epochs", type=float, help="so long do the prototypes stay as they start (swav)")
    add("--contrastive-weight", type=float, help="of the contrastive loss beside distillation (s2bnn); 0: none")
    add("--jigsaw-weight", type=float, help="of the jigsaw branch (infomin); 0: none")
    add("--label-smoothing", type=float, help="(supervised)")
    add("--small-views", type=int, help="small views of each image (multi-crop)")
    add("--small-img-size", type=int, help="their side in pixels; default: 3/7 of --img-size, as 96 is of 224")

    add = parser.add_argument_group("BURN").add_argument
    add("--head-type", default="mlp", choices=HEAD_TYPES, help="form of g_theta and l_phi")
    add("--lambda-0", type=float, default=0.9, help="first weight of the feature similarity loss")
    add("--lambda-T", type=float, default=0.7, dest="lambda_T", help="last weight of it")
    add("--lambda-schedule", default="cosine", choices=LAMBDA_SCHEDULES)
    add("--fs-loss", default="cosine", choices=FS_LOSSES, help="feature similarity; the first three are the paper's")
    add("--fs-temperature", type=float, help="of --fs-loss contrast, assignment and relations (0.1)")
    add("--fs-center", action="store_true", help="take the mean off the teacher's features in it")
    add("--adapter", default="linear", choices=HEAD_TYPES, help="from the student's features to the teacher's, in it; "
        "linear: none where their sizes agree")
    add("--fs-on", default="feature", choices=("feature", "projection"))
    add("--views", default="same", choices=("same", "cross"))
    add("--kl-direction", default="student-target", choices=KL_DIRECTIONS)
    add(
        "--target-head", default="joint", choices=TARGET_HEADS, help="how g_theta learns: by BURN's loss (paper), not "
        "at all, by the information term alone, or by swapped assignment of two views",
    )
    add("--information-weight", type=float, default=0.0, help="w of the target's information term")
    add("--target-temperature", type=float, help="of the target's softmax; default: --temperature. Lower sharpens")
    add("--center-momentum", type=float, help="of the running mean taken off the target's logits (DINO: 0.9; 1: none)")
    add("--reset-target-head", action="store_true", help="start every stage with a fresh g_theta (the paper's control)")

    add = parser.add_argument_group("run").add_argument
    add("--output", help="folder of the run; default: output/<date>-<model>")
    add("--resume", help="`auto`: go on from OUTPUT's checkpoint if there is one; or the path of a checkpoint")
    add("--checkpoint-steps", type=int, default=0, help="also save every N optimiser steps, not only after each epoch")
    add("--log-interval", type=int, default=10, help="optimiser steps between logged lines")
    add(
        "--knn-steps", type=int, default=0, metavar="N", help="log the student's kNN accuracy every N optimiser steps, "
        "on 10,000 and 2,000 images at most of --train-split and --val-split; 0: only at the end",
    )
    add("--linear-steps", type=int, default=0, metavar="N", help="the same for linear evaluation; 0: never")
    add("--log-with", default="tensorboard", help="any accelerate tracker, or none")
    add("--threads", type=int, help="CPU threads per process; default: cores divided by local processes")
    add("--push-to-hub", metavar="REPO", help="upload the export folder to this Hub repository; it must be empty, "
        "or as this run (its --output) left it")
    return parser


def parse_options(argv: list[str]) -> argparse.Namespace:
    """Options from recipe and command line, checked. Raises BurnError with one line."""
    parser = build_parser()
    recipe = parser.parse_known_args(argv)[0].recipe
    if recipe:
        values = _read_recipe(parser, recipe)
        if any(word.partition("=")[0] == "--img-size" for word in argv):
            values.pop("export_img_size", None)  # it goes with the recipe's own --img-size
        parser.set_defaults(**values)
    args = parser.parse_args(argv)
    if args.demo:
        _check_demo(argv)
    else:
        _fill_in(args)
        _check(args)
    args.command = shlex.join(["train_burn.py", *argv])
    return args


def is_binary(model_name: str) -> bool:
    """Whether a timm name, hf-hub: or local-dir: is one of this package's networks."""
    return architecture_of(model_name) in burn_models()


def defining_options(args: argparse.Namespace) -> dict:
    """The options that determine what is computed; a resumed run must have the same."""
    return {name: value for name, value in sorted(vars(args).items()) if name not in FREE_ON_RESUME}


def _fill_in(args: argparse.Namespace) -> None:
    """Replace None by the value in force, so that the summary and a checkpoint's identity hold it."""
    if args.stages is None:
        args.stages = ["w32a1", "w1a1"] if is_binary(args.model) else ["fp"]
    if args.dataset is None:
        args.dataset = "" if args.data_dir else "digits"
    if args.hflip is None:
        args.hflip = 0.0 if args.dataset.lower() == "digits" else 0.5
    if args.export_img_size is None:
        args.export_img_size = args.img_size
    method = METHODS[args.method]
    args.view = args.view or method.default_view
    if args.cache_teacher == 1:
        args.view = "none"
    args.teacher_output = args.teacher_output or method.teacher_output
    for name, parameter in inspect.signature(method).parameters.items():
        if parameter.default is not parameter.empty and getattr(args, name, parameter.default) is None:
            setattr(args, name, parameter.default)
    if args.method == "burn" and args.target_temperature is None:
        args.target_temperature = args.temperature


def _read_recipe(parser: argparse.ArgumentParser, recipe: str) -> dict:
    shipped = importlib.resources.files("burn_timm") / "recipes"
    path = Path(recipe)
    if not path.suffix:
        path = Path(str(shipped / f"{recipe}.yaml"))
    if not path.is_file():
        names = sorted(entry.name[:-5] for entry in shipped.iterdir() if entry.name.endswith(".yaml"))
        raise BurnError(f"--recipe {recipe}: no such recipe; shipped are {', '.join(names)}, or give a .yaml file")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise BurnError(f"{path.name}: not valid YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(values, dict):
        raise BurnError(f"{path.name}: expected a YAML mapping of option: value")
    values = {key.replace("-", "_"): value for key, value in values.items()}
    actions = {action.dest: action for action in parser._actions}
    return {key: _recipe_value(path.name, key, value, actions) for key, value in values.items()}


def _recipe_value(file: str, key: str, value, actions: dict):
    """One value of a recipe under the same rules as on the command line."""
    if key not in actions:
        raise BurnError(f"{file}: unknown option {key!r}")
    action = actions[key]
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        if not isinstance(value, bool):
            raise BurnError(f"{file}: {key} must be true or false, not {value!r}")
        return value
    if isinstance(action, ParseKwargs):
        if not isinstance(value, dict):
            raise BurnError(f"{file}: {key} must be a mapping, not {value!r}")
        return value
    entries = []
    for entry in value if isinstance(value, list) else [value]:
        try:
            entry = str(entry) if action.type is None else action.type(str(entry))
        except ValueError as error:
            raise BurnError(f"{file}: {key}: {entry!r} is not {action.type.__name__}") from error
        if action.choices is not None and entry not in action.choices:
            raise BurnError(f"{file}: {key} must be one of {', '.join(action.choices)}, not {entry!r}")
        entries.append(entry)
    if isinstance(value, list) and action.nargs != "+":
        raise BurnError(f"{file}: {key} takes one value, not a list")
    return entries if action.nargs == "+" else entries[0]


def _check_demo(argv: list[str]) -> None:
    parser = build_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    ignored = sorted(set(vars(parser.parse_args(argv))) - DEMO_OPTIONS)
    if ignored:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in ignored)
        raise BurnError(f"--demo takes --epochs, --max-steps and --output only; leave out {names}, or --demo")


def _check(args: argparse.Namespace) -> None:
    require_model(args.model)
    binary = is_binary(args.model)
    if binary and "fp" in args.stages:
        raise BurnError(f"--stages fp is for floating-point models; for {args.model} the real-valued stage is w32a32")
    if not binary and args.stages != ["fp"]:
        raise BurnError(f"--stages {' '.join(args.stages)}: {args.model} is not a binary network, use --stages fp")
    taught = [name for name, method in METHODS.items() if method.teacher_output]
    if args.method in taught and not args.teacher:
        raise BurnError(
            f"--method {args.method} needs --teacher: any timm model name, hf-hub:... or local-dir:... of a backbone"
        )
    if args.method not in taught and args.teacher:
        raise BurnError(f"--teacher goes with --method {', '.join(taught)}; --method {args.method} has none")
    if args.cache_size and args.cache not in ("memory", "disk"):
        raise BurnError("--cache-size needs --cache memory or --cache disk")
    if args.cache_size and args.cache_size < args.img_size:
        raise BurnError(f"--cache-size {args.cache_size} is less than --img-size {args.img_size}")
    if args.cache_teacher:
        if not args.teacher:
            raise BurnError(f"--cache-teacher: --method {args.method} has no teacher")
        if args.views_on == "device":
            raise BurnError("--cache-teacher needs --views-on workers")
    if args.method == "burn" and args.target_head == "information" and not args.information_weight:
        raise BurnError("--target-head information needs --information-weight above 0: nothing else trains g_theta")
    if args.adapter != "linear" and args.fs_on != "feature":
        raise BurnError("--adapter is for --fs-on feature: the heads' logits have one size")
    if args.fs_center and args.fs_on != "feature":
        raise BurnError("--fs-center is for --fs-on feature: the centre is that of the teacher's features")
    if args.resume == "auto" and not args.output:
        raise BurnError("--resume auto needs --output: the folder of the run to go on with")
    for name, least in LEAST.items():
        values = getattr(args, name)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and not least <= value < float("inf"):  # NaN fails too
                raise BurnError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    if len(args.weight_decay) not in (1, len(args.stages)):
        raise BurnError(f"--weight-decay takes one value, or one for each of the {len(args.stages)} stages")
    for name in ("lambda_0", "lambda_T", "hflip", "target_momentum", "center_momentum", "label_smoothing"):
        value = getattr(args, name)
        if value is not None and not 0 <= value <= 1:
            raise BurnError(f"--{name.replace('_', '-')} must lie in [0, 1], not {value}")
    for name in ("temperature", "target_temperature", "fs_temperature", "sinkhorn_epsilon"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise BurnError(f"--{name.replace('_', '-')} must be above 0, not {value}")
    try:
        weight = torch.nn.Parameter(torch.zeros(1))
        create_optimizer_v2([weight], opt=args.opt, lr=args.lr, weight_decay=0.0, momentum=args.momentum)
    except (ValueError, TypeError, AssertionError, ImportError) as error:
        raise BurnError(f"--opt {args.opt}: {error}; expected an optimiser of timm.optim.list_optimizers()") from error
