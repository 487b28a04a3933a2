"""Evaluate a frozen backbone on a downstream task and write one JSON with the figure and how it came about.

    python eval_downstream.py knn --model reactnet_a --checkpoint export/model.safetensors --dataset digits \
        --output knn.json
    python -m eval_downstream linear --model local-dir:export --dataset torch/cifar10 --data-dir DIR --output lin.json

Any timm model works, floating-point ones too. Bad input is one line on stderr and exit code 2.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from burn_timm.checkpoints import load_model, weights_file
from burn_timm.data import ImageSource, StreamSource, eval_loader, open_dataset, random_subset
from burn_timm.errors import BurnError
from burn_timm.evals import EVALS
from burn_timm.evals.features import (
    calibrate_batchnorm,
    data_config,
    eval_mode,
    eval_transform,
    extract_features,
    pixel_features,
)
from burn_timm.evals.results import redact, redact_tree, write_result

TEST_SPLITS = ("validation", "test", "val")
Source = ImageSource | StreamSource


class _Parser(argparse.ArgumentParser):
    """argparse without the usage block: an error is one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def _parser() -> _Parser:
    common = _Parser(add_help=False)
    add = common.add_argument
    add("--model", metavar="NAME", help="timm model name, hf-hub:OWNER/REPO or local-dir:FOLDER")
    add("--checkpoint", metavar="FILE", help="weights, packed or not: a file or a folder with model.safetensors")
    add("--pretrained", action="store_true", help="timm's own pretrained weights (implied by hf-hub: and local-dir:)")
    add("--pixels", action="store_true", help="evaluate the raw pixels; no model")
    add("--calibrate-bn", type=int, metavar="N", help="first re-estimate BatchNorm on N training images")
    add("--dataset", required=True, metavar="NAME", help="digits, or a timm dataset name: folder, torch/..., hfds/...")
    add("--data-dir", metavar="DIR", help="where the dataset lies")
    add("--train-split", default="train", metavar="NAME")
    add("--val-split", metavar="NAME", help=f"default: the first of {', '.join(TEST_SPLITS)} that there is")
    add("--input-key", metavar="COLUMN", help="hfds/wds: column of the image")
    add("--target-key", metavar="COLUMN", help="hfds/wds: column of the label")
    add("--img-size", type=int, metavar="PIXELS", help="default: the model's own input size")
    add("--crop-pct", type=float, metavar="FRACTION", help="centre crop; default: the model's own (1 keeps all)")
    add("--batch-size", type=int, default=128, metavar="N", help="images per forward pass (default: %(default)s)")
    add("--workers", type=int, default=2, metavar="N", help="loader processes (default: %(default)s)")
    add("--threads", type=int, metavar="N", help="torch CPU threads (default: torch's)")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: %(default)s)")
    add("--seed", type=int, default=0, help="random weights, subsets, probe (default: %(default)s)")
    add("--limit-train", type=int, metavar="N", help="a seeded random subset of N training images")
    add("--limit-test", type=int, metavar="N", help="a seeded random subset of N test images")
    add("--output", required=True, metavar="RESULT.json")

    parser = _Parser(prog="eval_downstream.py", description=__doc__.split("\n")[0])
    tasks = parser.add_subparsers(dest="task", required=True, metavar=" | ".join(EVALS))
    knn = tasks.add_parser("knn", parents=[common], help=EVALS["knn"].description)
    knn.add_argument("--k", type=int, default=20, help="neighbours (default: %(default)s)")
    knn.add_argument("--temperature", type=float, default=0.07, help="of the vote (default: %(default)s)")
    linear = tasks.add_parser("linear", parents=[common], help=EVALS["linear"].description)
    linear.add_argument("--epochs", type=int, default=100, help="(default: %(default)s)")
    lrs = EVALS["linear"].protocol()["lrs"]
    linear.add_argument("--lrs", type=float, nargs="+", default=lrs, metavar="LR", help="the sweep (default: decades)")
    svm = tasks.add_parser("svm", parents=[common], help=EVALS["svm"].description)
    published = EVALS["svm"].protocol()
    svm.add_argument("--shots", type=int, nargs="*", default=published["shots"], metavar="K", help="low-shot sizes")
    svm.add_argument("--draws", type=int, default=5, help="of each size (default: %(default)s)")
    svm.add_argument("--costs", type=float, nargs="+", default=published["costs"], metavar="C", help="(default: 19)")
    svm.add_argument("--no-full", action="store_true", help="leave out the SVMs on all images")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run one evaluation; `argv` without the program's name, sys.argv by default.

    Raises:
        SystemExit: code 2, after one line on stderr, for bad input.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        evaluate(args, ["python", "-m", "eval_downstream", *argv])
    except BurnError as error:
        parser.error(str(error))


def evaluate(args: argparse.Namespace, command: list[str]) -> dict:
    """The evaluation from top to bottom: data, model, features of both splits, the task, the file.

    Raises:
        BurnError: any of the options cannot be followed.
    """
    started = time.perf_counter()
    device = _check(args)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    task = EVALS[args.task]
    options = {
        "knn": lambda: {"k": args.k, "temperature": args.temperature},
        "linear": lambda: {"epochs": args.epochs, "lrs": tuple(args.lrs), "seed": args.seed},
        "svm": lambda: {
            "shots": tuple(args.shots), "draws": args.draws, "costs": tuple(args.costs), "full": not args.no_full,
            "seed": args.seed,
        },
    }[args.task]()

    full_train, full_test, test_split = _open_splits(args)
    train = _subset(full_train, args.limit_train, args.seed, "--limit-train")
    test = _subset(full_test, args.limit_test, args.seed, "--limit-test")
    task.check(len(train), **options)

    model, checkpoint = None, None
    if args.pixels:
        config = data_config({"mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}, _pixel_size(args, train))
        features_protocol = {"features_of": "raw pixels, normalised and flattened"}
    else:
        torch.manual_seed(args.seed)
        model = load_model(args.model, args.checkpoint, num_classes=0, pretrained=args.pretrained or None).to(device)
        checkpoint = _checkpoint_file(args)
        config = _fit_input_size(args, model)
        features_protocol = {
            "features_of": "pooled output of the frozen backbone, eval mode",
            "weights": _weights(args, model, checkpoint),
            "parameters": sum(p.numel() for p in model.parameters()),
        }
    transform = eval_transform(config)

    def loader(source: Source):
        return eval_loader(source, transform, args.batch_size, args.workers)

    if args.calibrate_bn is not None:
        calibration = _subset(full_train, args.calibrate_bn, args.seed, "--calibrate-bn")
        batch = min(args.batch_size, len(calibration))
        whole = len(calibration) // batch  # an incomplete batch would count as much as a whole one
        batches = (images for images, _ in eval_loader(calibration, transform, batch, args.workers, whole * batch))
        layers = calibrate_batchnorm(model, batches)
        features_protocol["calibrated_batchnorm"] = {"layers": layers, "images": whole * batch, "batch_size": batch}

    protocol = {
        **task.protocol(**options),
        **features_protocol,
        "transform": {**config, "input_size": list(config["input_size"])},
        "device": str(device),
        "seed": args.seed,
    }
    features = {}
    for name, source in (("train", train), ("test", test)):
        with tqdm(total=len(source), desc=f"{name} features", unit=" images") as bar:
            if model is None:
                features[name] = pixel_features(loader(source), bar.update)
            else:
                features[name] = extract_features(model, loader(source), device, bar.update)
    protocol["feature_dim"] = features["train"][0].shape[1]
    print(json.dumps({"protocol": redact_tree(protocol)}, indent=2), flush=True)

    where = device if device.type == "cuda" else "cpu"  # other accelerators lack float64
    outcome = task.run(*(tensor.to(where) for name in ("train", "test") for tensor in features[name]), **options)
    value = outcome.pop("value")
    dataset = {
        "name": args.dataset,
        "data_dir": args.data_dir,
        "description": full_train.description,
        "classes": full_train.num_classes or int(features["train"][1].max()) + 1,
        "train": {"split": args.train_split, "images": len(features["train"][0]), "of": len(full_train)},
        "test": {"split": test_split, "images": len(features["test"][0]), "of": len(full_test)},
    }
    result = write_result(
        args.output,
        task=args.task,
        value=value,
        protocol=protocol,
        dataset=dataset,
        model="pixels" if args.pixels else args.model,
        checkpoint=checkpoint,
        extra={**outcome, "seconds": round(time.perf_counter() - started, 1)},
        command=command,
    )
    counts = f"{dataset['train']['images']} training and {dataset['test']['images']} test images"
    print(f"{args.task} {value:.4f} | {redact(result['model'])} | {redact(args.dataset)}, {counts} | {args.output}")
    return result


def _check(args: argparse.Namespace) -> torch.device:
    """Refuse options that contradict each other before anything is read; the device."""
    if args.pixels:
        for option in ("model", "checkpoint", "pretrained", "calibrate_bn"):
            if getattr(args, option):
                raise BurnError(f"--pixels evaluates no model: leave out --{option.replace('_', '-')}")
    elif not args.model:
        raise BurnError("--model is missing: a timm model name, hf-hub:... or local-dir:... (or --pixels)")
    if args.checkpoint and args.pretrained:
        raise BurnError("--checkpoint and --pretrained both name weights: give one of them")
    for option in ("batch_size", "threads", "img_size", "calibrate_bn", "limit_train", "limit_test"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise BurnError(f"--{option.replace('_', '-')} must be at least 1, not {value}")
    if args.crop_pct is not None and not 0 < args.crop_pct <= 1:
        raise BurnError(f"--crop-pct must lie in (0, 1], not {args.crop_pct}")
    if args.workers < 0:
        raise BurnError(f"--workers must be at least 0, not {args.workers}")
    if os.path.isdir(args.output):
        raise BurnError(f"--output {args.output} is a folder; name a file in it, such as result.json")
    try:
        Path(args.output).absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BurnError(f"--output {args.output}: its folder cannot be made ({error.strerror})") from error
    try:
        device = torch.device(args.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BurnError(f"--device {args.device} is not usable here: expected cpu, cuda or cuda:N") from error
    return device


def _open_splits(args: argparse.Namespace) -> tuple[Source, Source, str]:
    """The training source, the test source and the name of its split."""
    keys = {"input_key": args.input_key, "target_key": args.target_key}
    train = open_dataset(args.dataset, args.data_dir, args.train_split, **keys)
    candidates = [args.val_split] if args.val_split else [s for s in TEST_SPLITS if s != args.train_split]
    for split in candidates:
        try:
            test = open_dataset(args.dataset, args.data_dir, split, **keys)
            break
        except BurnError as error:
            if args.val_split or split == candidates[-1]:
                raise BurnError(f"no test split: {error} (name one with --val-split)") from error
    for option, name, source in (("--train-split", args.train_split, train), ("--val-split", split, test)):
        if not source.labelled:
            raise BurnError(f"{option} {name} of {args.dataset} has no labels; the evaluations need a labelled split")
    return train, test, split


def _subset(source: Source, count: int | None, seed: int, option: str) -> Source:
    """A seeded random subset in the source's own order (the first `count` of a folder would be one class)."""
    if count is None:
        return source
    if source.streaming:
        raise BurnError(f"{option}: a stream (wds/...) gives no random subset; leave it out, or use folder or hfds")
    if count > len(source):
        raise BurnError(f"{option} {count}: there are only {len(source)} images")
    return random_subset(source, count, seed)


def _pixel_size(args: argparse.Namespace, source: Source) -> int:
    """--img-size, or the size of the images themselves where they are small."""
    if args.img_size is not None:
        return args.img_size
    try:
        side = None if source.streaming else min(source.load(0)[0].size)
    except (OSError, ValueError, SyntaxError):  # an unreadable image is the loader's to report
        side = None
    if side is None or side > 64:
        raise BurnError("--pixels needs --img-size, except for small images (up to 64 pixels); 32 or 64 is usual")
    return side


def _fit_input_size(args: argparse.Namespace, model: nn.Module) -> dict:
    """The model's data config at --img-size; a model with a fixed input size (ViT) is changed to it. One trial image
    finds out now, not after the data, whether the model takes that size and gives pooled features."""
    config = data_config(model, args.img_size)
    if args.crop_pct is not None:
        config["crop_pct"] = args.crop_pct
    size = config["input_size"][-1]
    try:
        if args.img_size is not None and hasattr(model, "set_input_size"):
            model.set_input_size(img_size=size)
        parameter = next(model.parameters())
        with eval_mode(model), torch.no_grad():
            model(torch.zeros(1, *config["input_size"], device=parameter.device, dtype=parameter.dtype))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise BurnError(f"--model {args.model} fails on {size}x{size} images ({reason}); change --img-size") from error
    return config


def _checkpoint_file(args: argparse.Namespace) -> Path | None:
    """The local file the weights came from, if they came from one."""
    scheme, _, folder = args.model.partition(":")
    path = args.checkpoint or (folder if scheme == "local-dir" else None)
    return weights_file(path) if path else None


def _weights(args: argparse.Namespace, model: nn.Module, checkpoint: Path | None) -> str:
    """Where the weights came from, in words."""
    if checkpoint is not None:
        return f"checkpoint {checkpoint.absolute()}"
    if not args.pretrained and not args.model.startswith("hf-hub:"):
        return f"random, seed {args.seed}"
    config = getattr(model, "pretrained_cfg", None) or {}
    source = next((config[key] for key in ("file", "hf_hub_id", "url") if config.get(key)), args.model)
    tag = f", tag {config['tag']}" if config.get("tag") else ""
    return f"pretrained, {source}{tag}"


if __name__ == "__main__":
    main()
