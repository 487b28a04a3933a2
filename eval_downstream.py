"""Evaluate a backbone on a downstream task and write one JSON with the figure and how it came about.

    python eval_downstream.py knn --model reactnet_a --checkpoint export/model.safetensors --dataset digits \
        --output knn.json
    python -m eval_downstream linear --model local-dir:export --dataset torch/cifar10 --data-dir DIR --output lin.json

Any timm model works, floating-point ones too. Bad input is one line on stderr and exit code 2.
"""

import argparse
import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from burn_timm import arguments
from burn_timm.arguments import Parser, natural, positive
from burn_timm.data import eval_loader
from burn_timm.deploy.export import pooled_features
from burn_timm.errors import BurnError
from burn_timm.evals import detection, finetune, inputs, knn, linear, network, pictures, svm, transfer
from burn_timm.evals.augmented import augmented_probe
from burn_timm.evals.features import calibrate_batchnorm, eval_transform, extract_features
from burn_timm.evals.figures import draw_all
from burn_timm.evals.inputs import Source, Split, open_splits, subset
from burn_timm.evals.results import read_results, write_result
from burn_timm.evals.tables import all_tables, summary
from burn_timm.files import locked
from burn_timm.provenance import redact

ENGINE_BATCH = 16  # images a call of another engine than torch, whose batch is fixed: more are no faster
ON_FEATURES = {"knn": knn, "linear": linear, "svm": svm, "transfer": transfer}
TASKS = {**ON_FEATURES, "finetune": finetune, "detection": detection}


class Measured(NamedTuple):
    """What a task found and what it worked on; `outcome` holds `value`, and what the result file calls `extra`."""

    outcome: dict
    protocol: dict
    dataset: dict
    checkpoint: Path | None
    draw: Callable[[], None] | None = None  # draws the picture that the options ask for


def main(argv: list[str] | None = None) -> None:
    """Run one evaluation; `argv` without the program's name, sys.argv by default.

    Raises:
        SystemExit: code 2, after one line on stderr, for bad input.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    args = _parser().parse_args(argv)
    call = {"table": print_tables, "figures": draw_figures}.get(args.task, lambda args: measure(args, argv))
    again = {"detection": "resume with --resume", "finetune": "the same command goes on from the finished points"}
    arguments.run("eval_downstream.py", lambda: call(args), again.get(args.task, ""))


def _parser() -> Parser:
    parser = Parser(prog="eval_downstream.py", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="task", required=True, metavar=" | ".join([*TASKS, "table", "figures"]))
    for name, task in TASKS.items():
        command = commands.add_parser(name, help=task.DESCRIPTION, description=task.DESCRIPTION)
        network.add_options(command, pixels=name in ON_FEATURES)
        add = command.add_argument
        add("--data-dir", metavar="DIR", help="where the dataset lies")
        add("--workers", type=natural, default=2, metavar="N", help="loader processes")
        add("--seed", type=natural, default=0, help="random weights, subsets, probe")
        add("--output", required=name != "knn", metavar="RESULT.json", help="the figure and how it was measured")
        if name != "detection":
            inputs.add_options(command)
        if name in ON_FEATURES:
            add("--engine", choices=("torch", "c", "openvino"), default="torch",
                help="what computes the features; c, openvino: real 1-bit kernels")
            add("--calibrate-bn", type=positive, metavar="N", help="first re-estimate BatchNorm on N training images")
        task.add_options(command)
    table = commands.add_parser("table", help="the paper's tables, in Markdown, from results")
    table.add_argument("results", nargs="+", metavar="RESULTS", help="by this script: .json, or .jsonl with one a line")
    figures = commands.add_parser("figures", help="the paper's figures 3 to 6, and targets over training")
    figures.add_argument("--runs", nargs="+", default=[], metavar="FOLDER",
                         help="of train_burn.py: gradient norms, targets")
    figures.add_argument("--results", nargs="+", default=[], metavar="RESULTS", help="training time, accuracy")
    figures.add_argument("--output", required=True, metavar="FOLDER", help="of the pictures")
    return parser


def measure(args: argparse.Namespace, argv: list[str]) -> None:
    """Run a task, write its result file, print the figures and draw what is asked for.

    Raises BurnError for options that cannot be followed.
    """
    started = time.perf_counter()
    picture = getattr(args, "neighbours", None) or getattr(args, "confusion", None)
    if args.output is None and picture is None:
        raise BurnError("knn needs --output RESULT.json, --neighbours FILE.png or both")
    for option, path in {"--output": args.output, "--neighbours or --confusion": picture}.items():
        if path:
            _require_place(option, path)
    output = args.output and Path(args.output)
    lock = locked(output.with_name(f".{output.name}.lock"), f"--output {output}") if output else nullcontext()
    with lock:
        device = network.open_device(args)
        task = {"finetune": evaluate_finetuning, "detection": evaluate_detection}.get(args.task, evaluate_features)
        measured = task(args, device)
        if output:
            _record(measured, args, argv, time.perf_counter() - started)
        if picture:
            measured.draw()
            print(f"drew {picture}")


def _require_place(option: str, path: str) -> None:
    """Make the folder of a file to be written. Raises BurnError where that cannot be, before the work begins."""
    if os.path.isdir(path):
        raise BurnError(f"{option} {path} is a folder; name a file in it")
    try:
        Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BurnError(f"{option} {path}: its folder cannot be made ({error.strerror})") from error


def _record(measured: Measured, args: argparse.Namespace, argv: list[str], seconds: float) -> None:
    """Write the result file and print its figures."""
    outcome, protocol, dataset, checkpoint, _ = measured
    value = outcome.pop("value")
    result = write_result(
        args.output, task=args.task, value=value, protocol=protocol, dataset=dataset, model=args.model or "pixels",
        checkpoint=checkpoint, extra={**outcome, "seconds": round(seconds, 1)},
        command=["python", "-m", "eval_downstream", *argv], training=network.training_of(checkpoint),
    )
    if args.task == "finetune":
        finetune.grid_file(args.output).unlink(missing_ok=True)  # only now: a kill must not lose the grid
    trained = dataset.get("trained_on", dataset["train"])["images"]
    where = f"{redact(dataset['name'])}, {trained} training and {dataset['test']['images']} test images"
    if line := summary(result):
        print(line)
    weights = ", random weights" if str(protocol.get("weights")).startswith("random") else ""
    print(f"{args.task} {100 * value:.2f} % | {redact(result['model'])}{weights} | {where} | {args.output}")


def evaluate_features(args: argparse.Namespace, device: torch.device) -> Measured:
    """A task on frozen features from top to bottom: images, network, features of both splits, the task."""
    task = ON_FEATURES[args.task]
    train, test = open_splits(args, multi_label=args.task == "svm", labelled=args.output is not None)
    settings = task.settings(args, train.used)
    augment = getattr(settings, "augment", False)
    _refuse_contradictions(args, augment, device)
    _print_counts(train, test)

    net, model, transform, protocol = _frozen_network(args, device, train, settings)
    features_of = functools.partial(_features, args, device, model, transform)

    images, classes = len(train.used), train.source.num_classes
    train_features = None if augment else features_of(train.used, "train")
    test_features = features_of(test.used, "test")
    if not augment:  # images may have been unreadable, and of a stream the classes are known only now
        images = len(train_features.values)
        classes = int(train_features.labels.max()) + 1 if train.source.streaming else classes
    protocol["feature_dim"] = test_features.values.shape[1]
    dataset = {**inputs.describe(args, train, test, images, len(test_features.values)), "classes": classes}
    outcome = {}
    if augment:
        outcome = augmented_probe(
            model, train.used, test_features[:2], settings, features_of=lambda *args: features_of(*args)[:2],
            img_size=net.config["input_size"][-1], device=device, workers=args.workers,
        )
    elif args.output is not None:
        where = device if device.type == "cuda" else "cpu"  # other accelerators lack float64
        outcome = task.run(*(part.to(where) for part in (*train_features[:2], *test_features[:2])), settings)
    predicted = outcome.pop("predicted", None)

    def draw() -> None:
        if args.task == "knn":
            pictures.draw_neighbours(
                args.neighbours, train_features.images, test_features.images,
                {"": (train_features.values, test_features.values)}, seed=args.seed,
            )
        else:
            pictures.draw_confusion(args.confusion, test_features.labels, predicted, train.source.class_names)

    return Measured(outcome, protocol, dataset, net.checkpoint, draw)


def _frozen_network(args: argparse.Namespace, device: torch.device, train: Split, settings: Any) -> tuple:
    """The network as it was loaded, what gives features of images, the images' transform, and all of that in words."""
    net = network.raw_pixels(args, train.used) if args.pixels else network.load(args, device)
    model, transform, words = net.model, eval_transform(net.config), net.config
    if getattr(settings, "squash", False):
        transform, words = svm.voc07_transform(net.config)
    four_places = getattr(settings, "pool", "1x1") == "2x2"
    protocol = {
        **settings.protocol(),
        "features_of": "raw pixels, normalised and flattened" if args.pixels else
        f"{'2 x 2 places of the last maps' if four_places else 'pooled output'} of the frozen backbone, eval mode",
        **net.protocol, "transform": words, "device": str(device), "seed": args.seed,
    }
    if args.calibrate_bn is not None:
        protocol["calibrated_batchnorm"] = _calibrate(args, model, train.source, transform)
    if args.engine != "torch":
        batch, side = min(args.batch_size, ENGINE_BATCH), net.config["input_size"][-1]
        model, protocol["engine"] = pooled_features(model, side, batch, args.threads, args.engine)
    if four_places:
        model = svm.FourPlaces(model, net.config["input_size"])
    return net, model, transform, protocol


class Features(NamedTuple):
    """Of the images that can be read."""

    values: Tensor  # [N, D]
    labels: Tensor  # [N], or [N, C] of several an image; -1 without one
    images: Source


def _features(
    args: argparse.Namespace, device: torch.device, model: torch.nn.Module, transform: Callable, source: Source,
    title: str,
) -> Features:
    loader = eval_loader(source if source.streaming else source.numbered(), transform, args.batch_size, args.workers)
    with tqdm(total=len(source), desc=f"{title} features", unit=" images") as bar:
        values, numbers = extract_features(model, loader, device, bar.update)
    if source.streaming:  # its loader gives labels
        return Features(values, numbers, source)
    images = source if len(numbers) == len(source) else source.subset(numbers.tolist())
    if images.multi_label:
        labels = images.label_matrix
    else:
        labels = images.labels() if images.labelled else torch.full_like(numbers, -1)
    return Features(values, torch.as_tensor(labels).long(), images)


def _refuse_contradictions(args: argparse.Namespace, augment: bool, device: torch.device) -> None:
    if args.pixels:
        for option in ("checkpoint", "pretrained", "calibrate_bn", "crop_pct", "interpolation"):
            if getattr(args, option):
                raise BurnError(f"--pixels evaluates no model: leave out --{option.replace('_', '-')}")
        if augment:
            raise BurnError("--pixels has no network to show augmented views: leave out --augment")
    if args.engine != "torch" and (args.pixels or augment or device.type != "cpu"):
        raise BurnError(f"--engine {args.engine} takes neither --pixels nor --augment, and --device cpu only")


def _calibrate(args: argparse.Namespace, model: torch.nn.Module, source: Source, transform: Callable) -> dict[str, Any]:
    images = subset(source, args.calibrate_bn, args.seed, "--calibrate-bn")
    batch = min(args.batch_size, len(images))
    used = len(images) // batch * batch  # an incomplete batch would count as much as a whole one
    batches = (pixels for pixels, _ in eval_loader(images, transform, batch, args.workers, used))
    return {"layers": calibrate_batchnorm(model, batches), "images": used, "batch_size": batch}


def evaluate_finetuning(args: argparse.Namespace, device: torch.device) -> Measured:
    """Fine-tuning from top to bottom: images, the labels that are used, the grid from every start."""
    train, test = open_splits(args)
    inputs.require_numbers(train.source, "finetune")
    labelled, chosen = finetune.labelled_subset(train.used, args)
    train = dataclasses.replace(train, used=labelled)
    _print_counts(train, test)
    net = network.load(args, device)
    protocol = {
        **finetune.protocol(args, chosen, len(labelled), len(train.source)),
        **net.protocol,
        "starts": list(finetune.starts(args, net.checkpoint)),
        "transform": net.config,
        "device": str(device),
        "seed": args.seed,
    }
    dataset = inputs.describe(args, train, test, len(labelled), len(test.used))
    outcome = finetune.run(
        args, device, labelled, test.used, net.config, net.checkpoint, protocol["weight_decay"],
    )
    dataset["test"]["images"] = next(iter(outcome["starts"].values())).get("images", len(test.used))
    return Measured(outcome, protocol, dataset, net.checkpoint)


def evaluate_detection(args: argparse.Namespace, device: torch.device) -> Measured:
    """Detection: `burn_timm/evals/detection/task.py` is its top to bottom; here is what all tasks have in common."""
    checkpoint = network.checkpoint_file(args)
    weights = network.weights_in_words(args, None, checkpoint)
    outcome = detection.evaluate(args, device, weights)
    protocol, dataset, extra = (outcome.pop(name) for name in ("protocol", "dataset", "extra"))
    return Measured({**outcome, **extra}, protocol, dataset, checkpoint)


def print_tables(args: argparse.Namespace) -> None:
    """`table`: print the paper's tables. Raises BurnError where there is nothing to show."""
    print(all_tables(read_results(args.results)))


def draw_figures(args: argparse.Namespace) -> None:
    """`figures`: draw what runs and results have. Raises BurnError where that is nothing."""
    for name in draw_all(Path(args.output), args.runs, read_results(args.results) if args.results else []):
        print(f"wrote {args.output}/{name}")


def _print_counts(train: Split, test: Split) -> None:
    print(redact(f"training images: {train.line()}"))
    print(redact(f"test images: {test.line()}"), flush=True)


if __name__ == "__main__":
    main()
