"""The end of a run: a folder that timm loads, and the real-valued weights beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import model_source, save_folder, save_latent
from ..files import atomic_folder, read_json
from ..packing import STAGES
from .build import with_classifier
from .options import Options


def export(
    model: torch.nn.Module, options: Options, stage: str, output: Path, classifier: torch.nn.Linear | None = None,
    label_names: Sequence[str] = (),
) -> dict:
    """Write `output/export` (config.json, model.safetensors) and, for binary networks, latent.safetensors.

    1-bit weights are packed; those of other stages are real-valued and stored as they are. `model` has no classifier;
    `classifier` is the one to export with it, if there is one, `label_names` are those of its classes.

    Returns:
        {"bytes_exported": ..., "bytes_fp32": ...}
    """
    model = (model if classifier is None else with_classifier(model, classifier)).eval()
    name = model.pretrained_cfg["architecture"]
    bits = STAGES.get(stage)
    state_dict = {key: tensor.detach().contiguous() for key, tensor in model.state_dict().items()}
    model_args = dict(options.model_kwargs)
    if bits is not None:
        model_args.update(weight_bits=bits[0], act_bits=bits[1], act_grad=options.act_grad)
    if hasattr(model, "set_input_size"):  # ViT: without it timm would build the network for its usual size
        model_args["img_size"] = options.img_size
    with atomic_folder(output / "export") as folder:
        loaded = bool(options.initial_checkpoint or model_source(options.model)[0])  # weights from elsewhere
        images = export_input(options.export_img_size)
        save_folder(folder, model, bits[0] if bits else 32, model_args, images, loaded, label_names)
        size = (folder / "model.safetensors").stat().st_size
        model_args = read_json(folder / "config.json")["model_args"]  # also those of the weights that it began with
    if bits is not None:
        save_latent(output / "latent.safetensors", state_dict, name, bits[0], model_args, bits[1])
    return {
        "bytes_exported": size,
        "bytes_fp32": sum(tensor.numel() * tensor.element_size() for tensor in state_dict.values()),
    }


def export_input(img_size: int) -> dict:
    """Data configuration of an export: the usual crop of 7/8 at ImageNet sizes; smaller images are kept whole."""
    return {"input_size": (3, img_size, img_size), "crop_pct": 0.875 if img_size >= 128 else 1.0}


def export_config(options: Options, student: torch.nn.Module) -> dict[str, Any]:
    """All of the data configuration that the export of `student` has."""
    return {**student.pretrained_cfg, **export_input(options.export_img_size)}
