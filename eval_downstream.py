"""Evaluate a frozen backbone on a downstream task and write one JSON with the figure and how it came about.

    python eval_downstream.py knn --model reactnet_a --checkpoint export/model.safetensors --dataset digits \
        --output knn.json
    python -m eval_downstream linear --model local-dir:export --dataset torch/cifar10 --data-dir DIR --output lin.json

Any timm model works, floating-point ones too. Bad input is one line on stderr and exit code 2.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from burn_timm.arguments import renamed
from burn_timm.checkpoints import load_model
from burn_timm.data import eval_loader, mirror_probability
from burn_timm.deploy.export import pooled_features
from burn_timm.errors import BurnError
from burn_timm.evals import EVALS, detection, finetune, svm
from burn_timm.evals.augmented import augmented_probe, held_out
from burn_timm.evals.features import calibrate_batchnorm, data_config, eval_transform, extract_features, pixel_features
from burn_timm.evals.figures import draw_all
from burn_timm.evals.inputs import (
    TEST_SPLITS,
    Source,
    announced,
    check_options,
    check_run,
    checkpoint_file,
    fit_input_size,
    open_splits,
    pixel_size,
    published_images,
    subset,
    training_of,
    weights_in_words,
)
from burn_timm.evals.paper import TABLES
from burn_timm.evals.results import summary, write_result
from burn_timm.evals.tables import all_tables, read_results
from burn_timm.files import atomic_write
from burn_timm.provenance import redact, redact_tree

ENGINE_BATCH = 16  # images a call of another engine than torch, whose batch is fixed: more are no faster


class _Parser(argparse.ArgumentParser):
    """argparse without the usage block: an error is one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def _parser() -> _Parser:
    base = _Parser(add_help=False)
    add = base.add_argument
    add("--model", metavar="NAME", help="timm model name, hf-hub:OWNER/REPO or local-dir:FOLDER")
    add("--checkpoint", metavar="FILE", help="weights, packed or not: a file or a folder with model.safetensors")
    add("--pretrained", action="store_true", help="timm's own pretrained weights (implied by hf-hub: and local-dir:)")
    add("--data-dir", metavar="DIR", help="where the dataset lies")
    add("--workers", type=int, default=2, metavar="N", help="loader processes (default: %(default)s)")
    add("--threads", type=int, metavar="N", help="torch CPU threads (default: torch's)")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: %(default)s)")
    add("--seed", type=int, default=0, help="random weights, subsets, probe (default: %(default)s)")
    add("--output", required=True, metavar="RESULT.json")

    images = _Parser(add_help=False)
    add = images.add_argument
    add("--dataset", required=True, metavar="NAME",
        help="digits, cub, birdsnap, places205, voc07 (svm), or a timm dataset name: folder, torch/..., hfds/...")
    add("--pixels", action="store_true", help="evaluate the raw pixels; no model")
    add("--calibrate-bn", type=int, metavar="N", help="first re-estimate BatchNorm on N training images")
    add("--train-split", default="train", metavar="NAME")
    add("--val-split", metavar="NAME", help=f"default: the first of {', '.join(TEST_SPLITS)} that there is")
    add("--input-key", metavar="COLUMN", help="hfds/wds: column of the image")
    add("--target-key", metavar="COLUMN", help="hfds/wds: column of the label")
    add("--img-size", type=int, metavar="PIXELS", help="default: the model's own input size")
    add("--crop-pct", type=float, metavar="FRACTION", help="centre crop; default: the model's own (1 keeps all)")
    add("--batch-size", type=int, default=128, metavar="N", help="images per forward pass (default: %(default)s)")
    add("--limit-train", type=int, metavar="N", help="a seeded random subset of N training images")
    add("--limit-test", type=int, metavar="N", help="a seeded random subset of N test images")

    frozen = _Parser(add_help=False)
    frozen.add_argument("--engine", type=renamed(numba="c"), choices=("torch", "c", "openvino"), default="torch",
                        help="what computes the features; c, openvino: real 1-bit kernels (default: %(default)s)")

    parser = _Parser(prog="eval_downstream.py", description=__doc__.split("\n")[0])
    names = [*EVALS, "finetune", "detection", "table", "figures"]
    subparsers = parser.add_subparsers(dest="task", required=True, metavar=" | ".join(names))
    for name, task in EVALS.items():
        task.add_options(subparsers.add_parser(name, parents=[base, images, frozen], help=task.description))
    finetune.add_options(subparsers.add_parser("finetune", parents=[base, images], help=finetune.DESCRIPTION))
    detection.add_options(subparsers.add_parser("detection", parents=[base], help=detection.DESCRIPTION))
    table = subparsers.add_parser("table", help="the paper's tables, in Markdown, from results")
    table.add_argument("results", nargs="+", metavar="RESULTS", help="by this script: .json, or .jsonl with one a line")
    table.add_argument("--number", type=int, nargs="+", choices=TABLES, metavar="N", help="1 to 7 (default: all)")
    table.add_argument("--paper", action="store_true", help="the paper's rows even where none of ours is comparable")
    table.add_argument("--output", metavar="TABLE.md", help="default: print it")
    figures = subparsers.add_parser("figures", help="the paper's figures 3 to 6, and targets over training")
    figures.add_argument(
        "--runs", nargs="+", default=[], metavar="FOLDER", help="of train_burn.py: gradient norms, targets",
    )
    figures.add_argument("--results", nargs="+", default=[], metavar="RESULTS", help="training time, accuracy")
    figures.add_argument("--output", required=True, metavar="FOLDER", help="of the pictures")
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
        if args.task in ("table", "figures"):
            report(args)
        else:
            command = ["python", "-m", "eval_downstream", *argv]
            run = {"finetune": evaluate_finetuning, "detection": evaluate_detection}.get(args.task, evaluate)
            run(args, command)
    except (BurnError, OSError) as error:
        parser.error(str(error))


def evaluate(args: argparse.Namespace, command: list[str]) -> dict:
    """An evaluation of frozen features from top to bottom: data, model, features of both splits, the task, the file.

    Raises:
        BurnError: any of the options cannot be followed.
    """
    started = time.perf_counter()
    device = check_options(args)
    task = EVALS[args.task]
    options = task.options(args)
    augment = options.get("augment", False)
    if args.engine != "torch" and (args.pixels or augment or device.type != "cpu"):
        raise BurnError(f"--engine {args.engine} takes neither --pixels nor --augment, and --device cpu only")

    full_train, full_test, test_split = open_splits(args)
    train = subset(full_train, args.limit_train, args.seed, "--limit-train")
    test = subset(full_test, args.limit_test, args.seed, "--limit-test")
    _announce(args, full_train, len(train), full_test, len(test), test_split)
    if augment and train.streaming:
        raise BurnError("--augment needs images by number, which a stream (wds/...) has not: use folder or hfds")
    if args.task == "svm":
        options["multi_label"] = train.multi_label
    task.check(len(train), **options)

    model, checkpoint = None, None
    if args.pixels:
        if augment:
            raise BurnError("--pixels has no network to show augmented views: leave out --augment")
        config = data_config({"mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}, pixel_size(args, train))
        features_protocol = {"features_of": "raw pixels, normalised and flattened"}
    else:
        torch.manual_seed(args.seed)
        model = load_model(args.model, args.checkpoint, num_classes=0, pretrained=args.pretrained or None).to(device)
        checkpoint = checkpoint_file(args)
        config = fit_input_size(args, model)
        features_protocol = {
            "features_of": "pooled output of the frozen backbone, eval mode",
            "weights": weights_in_words(args, model, checkpoint),
            "parameters": sum(p.numel() for p in model.parameters()),
        }
    transform, shown = eval_transform(config), {**config, "input_size": list(config["input_size"])}
    if args.task == "svm" and (train.multi_label if args.squash is None else args.squash):
        transform, shown = svm.voc07_transform(config), svm.voc07_transform_protocol(config)

    def loader(source: Source):
        return eval_loader(source, transform, args.batch_size, args.workers)

    if args.calibrate_bn is not None:
        calibration = subset(full_train, args.calibrate_bn, args.seed, "--calibrate-bn")
        batch = min(args.batch_size, len(calibration))
        whole = len(calibration) // batch  # an incomplete batch would count as much as a whole one
        batches = (images for images, _ in eval_loader(calibration, transform, batch, args.workers, whole * batch))
        layers = calibrate_batchnorm(model, batches)
        features_protocol["calibrated_batchnorm"] = {"layers": layers, "images": whole * batch, "batch_size": batch}

    if args.engine != "torch":
        model, features_protocol["engine"] = pooled_features(
            model, config["input_size"][-1], min(args.batch_size, ENGINE_BATCH), args.threads, args.engine,
        )

    protocol = {
        **task.protocol(**options),
        **features_protocol,
        "transform": shown,
        "device": str(device),
        "seed": args.seed,
    }
    sources, held = {"train": train, "test": test}, []
    if augment and len(protocol["lrs"]) > 1:
        sources["train"], held = held_out(train, args.seed)
    elif augment:  # one rate: nothing to choose
        sources = {"test": test}
    features = {}
    for name, source in sources.items():
        with tqdm(total=len(source), desc=f"{name} features", unit=" images") as bar:
            if model is None:
                features[name] = pixel_features(loader(source), bar.update)
            else:
                features[name] = extract_features(model, loader(source), device, bar.update)
            if source.multi_label:  # the loader gives rows of the matrix, so that a broken image may be left out
                rows = features[name][1]
                features[name] = features[name][0], torch.from_numpy(source.label_matrix)[rows].long()
    features.setdefault("train", tuple(tensor[:0] for tensor in features["test"]))
    protocol["feature_dim"] = features["test"][0].shape[1]
    images = len(train) if augment else len(features["train"][0])  # a few may have been unreadable
    dataset = _dataset(args, full_train, full_test, test_split, images, len(features["test"][0]))
    _print_protocol(protocol, dataset)

    if augment:
        outcome = augmented_probe(
            model, train, held, *features["train"], *features["test"], img_size=config["input_size"][-1],
            device=device, workers=args.workers, hflip=mirror_probability(args.dataset), **options,
        )
        classes = train.num_classes
    else:
        where = device if device.type == "cuda" else "cpu"  # other accelerators lack float64
        outcome = task.run(*(tensor.to(where) for name in ("train", "test") for tensor in features[name]), **options)
        classes = int(features["train"][1].max()) + 1  # of one label an image
    dataset["classes"] = dataset["classes"] or classes  # a stream does not know
    return _write(args, command, started, outcome, protocol, dataset, checkpoint)


def evaluate_finetuning(args: argparse.Namespace, command: list[str]) -> dict:
    """Fine-tuning from top to bottom: data, the labels that are used, the grid from every start, the file.

    Raises:
        BurnError: any of the options cannot be followed.
    """
    started = time.perf_counter()
    device = check_options(args)
    finetune.check(args)
    full_train, full_test, test_split = open_splits(args)
    if full_train.streaming or full_test.streaming:
        raise BurnError("finetune needs images by number, which a stream (wds/...) has not: use folder or hfds")
    train, chosen = finetune.labelled_subset(subset(full_train, args.limit_train, args.seed, "--limit-train"), args)
    test = subset(full_test, args.limit_test, args.seed, "--limit-test")
    _announce(args, full_train, len(train), full_test, len(test), test_split)
    model = load_model(args.model, args.checkpoint, pretrained=args.pretrained or None)
    checkpoint = checkpoint_file(args)
    config = fit_input_size(args, model)
    protocol = {
        **finetune.protocol(args, chosen, len(train), len(full_train)),
        "weights": weights_in_words(args, model, checkpoint),
        "starts": list(finetune.starts(args, checkpoint)),
        "parameters": sum(p.numel() for p in model.parameters()),
        "transform": {**config, "input_size": list(config["input_size"])},
        "device": str(device),
        "seed": args.seed,
    }
    dataset = _dataset(args, full_train, full_test, test_split, len(train), len(test))
    _print_protocol(protocol, dataset)
    outcome = finetune.finetune(args, device, train, test, config, checkpoint)
    return _write(args, command, started, outcome, protocol, dataset, checkpoint)


def evaluate_detection(args: argparse.Namespace, command: list[str]) -> dict:
    """Detection: `burn_timm/evals/detection/task.py` is its top to bottom; here is what all tasks have in common.

    Raises:
        BurnError: any of the options cannot be followed.
    """
    started = time.perf_counter()
    device = check_run(args)
    checkpoint = checkpoint_file(args)
    outcome = detection.evaluate(args, device, announce=_print_protocol)
    protocol, dataset, extra = (outcome.pop(name) for name in ("protocol", "dataset", "extra"))
    protocol = {**protocol, "weights": weights_in_words(args, None, checkpoint)}
    return _write(args, command, started, {**outcome, **extra}, protocol, dataset, checkpoint)


def report(args: argparse.Namespace) -> None:
    """`table` and `figures`: nothing is measured.

    Raises:
        BurnError: a file cannot be read or written, or has nothing to show.
    """
    results = read_results(args.results) if args.results else []
    if args.task == "figures":
        for name in draw_all(Path(args.output), args.runs, results):
            print(f"wrote {args.output}/{name}")
        return
    text = all_tables(results, args.number, args.paper)
    if args.output is None:
        print(text)
        return
    with atomic_write(args.output) as beside:
        beside.write_text(text)
    print(f"wrote {args.output}")


def _announce(args, train: Source, train_images: int, test: Source, test_images: int, test_split: str) -> None:
    print(redact(f"training images: {announced(args.dataset, args.train_split, train, train_images)}"))
    print(redact(f"test images: {announced(args.dataset, test_split, test, test_images)}"), flush=True)


def _print_protocol(protocol: dict, dataset: dict) -> None:
    print(json.dumps(redact_tree({"protocol": protocol, "dataset": dataset}), indent=2), flush=True)


def _dataset(args, train: Source, test: Source, test_split: str, train_images: int, test_images: int) -> dict:
    parts = {
        "train": {"split": args.train_split, "images": train_images, "of": len(train)},
        "test": {"split": test_split, "images": test_images, "of": len(test)},
    }
    for part in parts.values():
        if published := published_images(args.dataset, part["split"]):
            part["published_images"] = published
    return {
        "name": args.dataset, "data_dir": args.data_dir, "description": train.description, "classes": train.num_classes,
        **parts,
    }


def _write(args, command, started, outcome: dict, protocol: dict, dataset: dict, checkpoint) -> dict:
    value = outcome.pop("value")
    result = write_result(
        args.output,
        task=args.task,
        value=value,
        protocol=protocol,
        dataset=dataset,
        model=args.model or "pixels",
        checkpoint=checkpoint,
        extra={**outcome, "seconds": round(time.perf_counter() - started, 1)},
        command=command,
        training=training_of(checkpoint),
    )
    trained = dataset.get("trained_on", dataset["train"])["images"]
    where = f"{redact(dataset['name'])}, {trained} training and {dataset['test']['images']} test images"
    for line in summary(result):
        print(line)
    print(f"{args.task} {value:.4f} | {redact(result['model'])} | {where} | {args.output}")
    return result


if __name__ == "__main__":
    main()
