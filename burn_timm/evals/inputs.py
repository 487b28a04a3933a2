"""What every evaluation starts from: options checked, both splits opened, the model fitted to the input size."""

import argparse
import json
import os
from pathlib import Path

import timm
import torch
from torch import nn

from ..checkpoints import weights_file
from ..data import PUBLISHED_IMAGES, PUBLISHED_TEST_SPLITS, ImageSource, StreamSource, open_dataset
from ..data.sources import random_subset
from ..errors import BurnError, NoSplitError
from .features import data_config, eval_mode

TEST_SPLITS = ("validation", "test", "val")
Source = ImageSource | StreamSource
TELLING = (
    "fs_loss", "fs_temperature", "adapter", "lambda_0", "lambda_T", "lambda_schedule", "target_head",
    "reset_target_head", "information_weight", "kl_direction", "contrastive_weight", "lr", "temperature",
    "target_temperature", "center_momentum", "fs_center",
)


def check_options(args: argparse.Namespace) -> torch.device:
    """Refuse options of images and model that contradict each other before anything is read; the device."""
    if args.pixels:
        for option in ("model", "checkpoint", "pretrained", "calibrate_bn"):
            if getattr(args, option):
                raise BurnError(f"--pixels evaluates no model: leave out --{option.replace('_', '-')}")
    for option in ("batch_size", "img_size", "calibrate_bn", "limit_train", "limit_test"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise BurnError(f"--{option.replace('_', '-')} must be at least 1, not {value}")
    if args.crop_pct is not None and not 0 < args.crop_pct <= 1:
        raise BurnError(f"--crop-pct must lie in (0, 1], not {args.crop_pct}")
    return check_run(args)


def check_run(args: argparse.Namespace) -> torch.device:
    """The same for what every task has: model, processes, output; the device."""
    if not args.model and not getattr(args, "pixels", False):
        pixels = " (or --pixels)" if hasattr(args, "pixels") else ""
        raise BurnError(f"--model is missing: a timm model name, hf-hub:... or local-dir:...{pixels}")
    if args.checkpoint and args.pretrained:
        raise BurnError("--checkpoint and --pretrained both name weights: give one of them")
    if args.threads is not None and args.threads < 1:
        raise BurnError(f"--threads must be at least 1, not {args.threads}")
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
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    return device


def open_splits(args: argparse.Namespace) -> tuple[Source, Source, str]:
    """The training source, the test source and the name of its split.

    Without --val-split the test source is the published set's own, of other sets the first that there is.

    Raises:
        BurnError: there is no such split, it cannot be read, has no labels, or has images of the training split.
    """
    keys = {"input_key": args.input_key, "target_key": args.target_key}
    train = open_dataset(args.dataset, args.data_dir, args.train_split, **keys)
    published = PUBLISHED_TEST_SPLITS.get(args.dataset.lower())
    named = args.val_split or published
    candidates = [named] if named else [split for split in TEST_SPLITS if split != args.train_split]
    for split in candidates:
        try:
            test = open_dataset(args.dataset, args.data_dir, split, **keys)
            break
        except NoSplitError as error:  # any other error is about a split that is there
            if split == candidates[-1]:
                raise BurnError(f"no test split: {error} (name one with --val-split)") from error
    shared = len(test) if split == args.train_split else 0 if train.streaming else train.shared(test)
    if shared:
        raise BurnError(
            f"--val-split {split}: {shared:,} of its {len(test):,} images are among those of --train-split "
            f"{args.train_split}; name a split apart from it"
        )
    for option, name, source in (("--train-split", args.train_split, train), ("--val-split", split, test)):
        if source.multi_label:
            if args.task != "svm":
                raise BurnError(f"{option} {name} of {args.dataset} has several labels an image: svm is for such sets")
        elif not source.labelled:
            raise BurnError(f"{option} {name} of {args.dataset} has no labels; the evaluations need a labelled split")
    return train, test, split


def announced(dataset: str, split: str, source: Source, used: int) -> str:
    """What an evaluation works on, for one line: the source with its count, the published count where the set is one
    of those, and how many images are used where not all are."""
    parts = [source.description]
    if published := published_images(dataset, split):
        parts.append(f"published: {published:,}")
    if used != len(source):
        parts.append(f"used: {used:,}")
    return "; ".join(parts)


def published_images(dataset: str, split: str) -> int | None:
    """How many images a split of a published set has, None for all other sets."""
    return PUBLISHED_IMAGES.get(dataset.lower(), {}).get(split)


def subset(source: Source, count: int | None, seed: int, option: str) -> Source:
    """A seeded random subset in the source's own order (the first `count` of a folder would be one class)."""
    if count is None:
        return source
    if source.streaming:
        raise BurnError(f"{option}: a stream (wds/...) gives no random subset; leave it out, or use folder or hfds")
    if count > len(source):
        raise BurnError(f"{option} {count}: there are only {len(source)} images")
    return random_subset(source, count, seed)


def pixel_size(args: argparse.Namespace, source: Source) -> int:
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


def fit_input_size(args: argparse.Namespace, model: nn.Module) -> dict:
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


def checkpoint_file(args: argparse.Namespace) -> Path | None:
    """The local file the weights came from, if they came from one; released weights lie in the package."""
    scheme, _, folder = args.model.partition(":")
    path = args.checkpoint or (folder if scheme == "local-dir" else None)
    if path is None and args.pretrained and not folder and timm.is_model_pretrained(args.model):
        path = timm.get_pretrained_cfg(args.model).file
    return weights_file(path) if path else None


def weights_in_words(args: argparse.Namespace, model: nn.Module | None, checkpoint: Path | None) -> str:
    """Where the weights came from, in words."""
    if checkpoint is not None and not args.pretrained:
        return f"checkpoint {checkpoint.absolute()}"
    if not args.pretrained and not args.model.startswith("hf-hub:"):
        return f"random, seed {args.seed}"
    config = getattr(model, "pretrained_cfg", None) or {}
    source = next((config[key] for key in ("file", "hf_hub_id", "url") if config.get(key)), args.model)
    tag = f", tag {config['tag']}" if config.get("tag") else ""
    return f"pretrained, {source}{tag}"


def training_of(checkpoint: Path | None) -> dict | None:
    """How a checkpoint of this package was trained, from training.json beside it, or from the summary.json of its run;
    None where there is neither. Released weights have theirs beside them, under their own name.

    The run's folder is that of `export/model.safetensors`, or of `latent.safetensors`.
    """
    if checkpoint is None:
        return None
    folder = checkpoint.absolute().parent
    run = folder.parent if folder.name == "export" else folder
    places = checkpoint.with_suffix(".json"), folder / "training.json", run / "summary.json"
    path = next((place for place in places if place.is_file()), places[-1])
    try:
        summary = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return None
    if not isinstance(summary, dict) or not {"method", "model", "settings"} <= summary.keys():
        return None  # somebody else's file of that name
    settings = summary["settings"]
    kept = ("method", "model", "stages", "teacher", "dataset", "img_size", "export_img_size", "epochs", "max_steps",
            "total_batch_size", "seed", "processes", "mixed_precision", "commit", "train_seconds", "cpu_seconds",
            "peak_memory_bytes")
    return {
        **{name: summary[name] for name in kept if name in summary},
        # What tells the rows of the paper's tables, and of ours, apart.
        "settings": {name: settings[name] for name in TELLING if name in settings},
    }
