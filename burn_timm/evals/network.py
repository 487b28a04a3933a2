"""The network under evaluation: loaded, fitted to the input size, and where its weights came from."""

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import nn

from ..arguments import positive
from ..checkpoints import WEIGHTS_FILES, download, load_model, model_source, weights_file
from ..errors import BurnError, one_line
from ..runs import summary_of
from .features import data_config, eval_mode
from .inputs import Source

_logger = logging.getLogger(__name__)

# Settings of a run that tell the rows of the paper's tables, and of ours, apart.
_TRAINING_SETTINGS = (
    "fs_loss", "fs_temperature", "adapter", "lambda_0", "lambda_T", "lambda_schedule", "target_head",
    "reset_target_head", "information_weight", "kl_direction", "contrastive_weight", "lr", "temperature",
    "fs_on", "views", "teacher_norm",
)
_TRAINING = (
    "method", "model", "stages", "teacher", "teacher_checkpoint", "teacher_pretrained", "teacher_sha256", "dataset",
    "img_size", "export_img_size", "epochs", "max_steps",
    "total_batch_size", "seed", "processes", "mixed_precision", "commit", "train_seconds", "cpu_seconds",
    "peak_memory_bytes",
)


@dataclass(frozen=True)
class Network:
    """What gives features [B, D] of images [B, 3, S, S], S x S being `config["input_size"]`.

    Attributes:
        config: timm's data config.
        checkpoint: the local file of the weights, if there is one.
        protocol: for the result file.
    """

    model: nn.Module
    config: dict
    checkpoint: Path | None
    protocol: dict


def add_options(parser: argparse.ArgumentParser, pixels: bool) -> None:
    """Which network runs where; with `pixels` there may be none."""
    name = "timm model name, hf-hub:OWNER/REPO or local-dir:FOLDER"
    if pixels:
        model = parser.add_mutually_exclusive_group(required=True).add_argument
        model("--model", metavar="NAME", help=name)
        model("--pixels", action="store_true", help="evaluate the raw pixels; no model")
    else:
        parser.add_argument("--model", required=True, metavar="NAME", help=name)
    weights = parser.add_mutually_exclusive_group().add_argument
    weights("--checkpoint", metavar="FILE", help="weights, packed or not: a file or a folder with model.safetensors")
    weights("--pretrained", action="store_true", help="timm's own pretrained weights (implied by hf-hub:, local-dir:)")
    parser.add_argument("--threads", type=positive, metavar="N", help="torch CPU threads (default: torch's)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")


def open_device(args: argparse.Namespace) -> torch.device:
    """--device, tried, and torch's --threads. Raises BurnError where the device is not usable here."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    try:
        device = torch.device(args.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        why = f"is not usable here ({one_line(error)}); expected cpu, cuda or cuda:N"
        raise BurnError(f"--device {args.device} {why}") from error
    return device


def load(args: argparse.Namespace, device: torch.device) -> Network:
    """The timm model without classifier, by --model, --checkpoint, --pretrained and the options of images; random
    weights are drawn with --seed. Raises BurnError where these do not fit each other."""
    torch.manual_seed(args.seed)
    model = load_model(args.model, args.checkpoint, num_classes=0, pretrained=args.pretrained or None).to(device)
    checkpoint = checkpoint_file(args)
    protocol = {
        "weights": weights_in_words(args, model, checkpoint),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    return Network(model, _fit_input_size(args, model), checkpoint, protocol)


def raw_pixels(args: argparse.Namespace, source: Source) -> Network:
    """A network that returns the pixels unchanged, at --img-size; small images have their own size by default."""
    side = args.img_size
    if side is None and not source.streaming:
        found = source.readable(0)
        side = min(found[0].size) if found and min(found[0].size) <= 64 else None
    if side is None:
        raise BurnError("--pixels needs --img-size, except for small images (up to 64 pixels); 32 or 64 is usual")
    config = data_config({"mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}, side)
    return Network(nn.Flatten(), config, None, {})


def _fit_input_size(args: argparse.Namespace, model: nn.Module) -> dict:
    """The model's data config at --img-size; a model with a fixed input size (ViT) is changed to it. One trial image
    finds out now, not after the data, whether the model takes that size and gives pooled features."""
    config = data_config(model, args.img_size)
    config |= {key: getattr(args, key) for key in ("crop_pct", "interpolation") if getattr(args, key) is not None}
    size, own = config["input_size"][-1], data_config(model)["input_size"][-1]
    if (args.pretrained or model_source(args.model)[0]) and not own / 2 < size < own * 2:
        _logger.warning(f"--img-size {size}: {args.model} is for {own} px; figures are lower far from it")
    try:
        if args.img_size is not None and hasattr(model, "set_input_size"):
            model.set_input_size(img_size=size)
        parameter = next(model.parameters())
        with eval_mode(model), torch.no_grad():
            model(torch.zeros(1, *config["input_size"], device=parameter.device, dtype=parameter.dtype))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = one_line(str(error).split("\n")[0])
        raise BurnError(f"--model {args.model} fails on {size}x{size} images ({reason}); change --img-size") from error
    return config


def checkpoint_file(args: argparse.Namespace) -> Path | None:
    """The local file the weights came from, if they came from one; released weights lie in the package, those of a
    repository in the Hub's cache. Warns where the weights are random though trained ones are at hand."""
    if not args.checkpoint and not args.pretrained and timm.is_model_pretrained(args.model):
        _logger.warning(f"--model {args.model}: its weights are random; --pretrained takes those it comes with")
    scheme, place = model_source(args.model)
    path = args.checkpoint or (place if scheme == "local-dir" else None)
    if path is None and scheme == "hf-hub":
        path = download(args.model, *WEIGHTS_FILES)
    elif path is None and args.pretrained and timm.is_model_pretrained(args.model):
        path = timm.get_pretrained_cfg(args.model).file
    return weights_file(path) if path else None


def weights_in_words(args: argparse.Namespace, model: nn.Module | None, checkpoint: Path | None) -> str:
    """Where the weights came from, in words."""
    if args.checkpoint or not args.pretrained and model_source(args.model)[0] != "hf-hub":
        return f"checkpoint {checkpoint.absolute()}" if checkpoint else f"random, seed {args.seed}"
    config = getattr(model, "pretrained_cfg", None) or {}
    source = next((config[key] for key in ("file", "hf_hub_id", "url") if config.get(key)), args.model)
    tag = f", tag {config['tag']}" if config.get("tag") else ""
    return f"pretrained, {source}{tag}"


def training_of(checkpoint: Path | None) -> dict | None:
    """What a result keeps of how its checkpoint was trained (`summary_of`); None where that is unknown."""
    summary = summary_of(checkpoint) if checkpoint else {}
    if not summary:
        return None
    settings = summary["settings"]
    return {
        **{name: summary[name] for name in _TRAINING if name in summary},
        "settings": {name: settings[name] for name in _TRAINING_SETTINGS if name in settings},
    }
