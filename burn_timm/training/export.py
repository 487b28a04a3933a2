"""The end of a run: a folder that timm loads, and the real-valued weights beside it."""

import argparse
import copy
import json
import shutil
from pathlib import Path

import torch
from timm.models._hub import save_config_for_hf

from ..checkpoints import save_latent
from ..files import atomic_folder, atomic_write
from ..hub.card import render_card
from ..nn import binary_weight_names
from ..packing import pack_state_dict, save_packed
from .options import STAGES


def export(
    model: torch.nn.Module, args: argparse.Namespace, stage: str, output: Path,
    classifier: torch.nn.Linear | None = None,
) -> dict:
    """Write `output/export` (config.json, model.safetensors) and, for binary networks, latent.safetensors.

    1-bit weights are packed; those of other stages are real-valued and stored as they are. `model` has no classifier;
    `classifier` is the one to export with it, if there is one.

    Returns:
        {"bytes_exported": ..., "bytes_fp32": ...}
    """
    if classifier is not None:
        model = copy.deepcopy(model)
        model.reset_classifier(classifier.out_features)
        model.get_classifier().load_state_dict(classifier.state_dict())
    model = model.eval()
    name = model.pretrained_cfg["architecture"]
    bits = STAGES[stage]
    state_dict = {key: tensor.detach().contiguous() for key, tensor in model.state_dict().items()}
    model_args = dict(args.model_kwargs)
    if bits is not None:
        model_args.update(weight_bits=bits[0], act_bits=bits[1], act_grad=args.act_grad)
    if hasattr(model, "set_input_size"):  # ViT: without it timm would build the network for its usual size
        model_args["img_size"] = args.img_size
    side = args.export_img_size
    data_config = {"input_size": (3, side, side), "crop_pct": export_crop_pct(side)}
    with atomic_folder(output / "export") as folder:
        save_config_for_hf(model, folder / "config.json", model_args=model_args, data_config=data_config)
        if not (args.initial_checkpoint or args.model.startswith(("local-dir:", "hf-hub:"))):
            _drop_origin(folder / "config.json")
        weights = folder / "model.safetensors"
        if bits is not None and bits[0] == 1:
            save_packed(weights, pack_state_dict(state_dict, binary_weight_names(model)))
        else:
            save_latent(weights, state_dict, name, weight_bits=32, model_args=args.model_kwargs)
        size = weights.stat().st_size
    if bits is not None:
        save_latent(
            output / "latent.safetensors", state_dict, name, weight_bits=bits[0], model_args=args.model_kwargs,
        )
    return {
        "bytes_exported": size,
        "bytes_fp32": sum(tensor.numel() * tensor.element_size() for tensor in state_dict.values()),
    }


def _drop_origin(path: Path) -> None:
    """Take out what timm's registration says of weights that this network, trained from random ones, never had."""
    config = json.loads(path.read_text())
    for name in ("tag", "license", "origin_url"):
        config["pretrained_cfg"].pop(name, None)
    path.write_text(json.dumps(config, indent=2) + "\n")


def describe(folder: Path, details: dict, curves: Path, repo: str | None = None) -> None:
    """Write into an export folder what tells of its weights: training.json (`details`), curves.png and README.md."""
    with atomic_write(folder / "training.json") as beside:
        beside.write_text(json.dumps(details, indent=2) + "\n")
    if curves.is_file():
        with atomic_write(folder / "curves.png") as beside:
            shutil.copyfile(curves, beside)
    picture = "curves.png" if curves.is_file() else None
    card = render_card(folder, details, repo=repo, picture=picture)
    with atomic_write(folder / "README.md") as beside:
        beside.write_text(card, encoding="utf-8")


def export_crop_pct(img_size: int) -> float:
    """Evaluation crop: the usual 7/8 at ImageNet sizes; small images are small already and kept whole."""
    return 0.875 if img_size >= 128 else 1.0
