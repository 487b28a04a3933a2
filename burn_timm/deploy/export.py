"""A network to a folder of another engine: OpenVINO, numba (1 bit), ONNX, torch.export (interchange, not 1 bit)."""

import hashlib
import json
import platform
import warnings
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from torch import nn

from ..checkpoints import state_hash
from ..errors import BurnError, one_line
from ..files import atomic_folder
from ..version import __version__
from . import folded
from .engine import CONFIG, FOLDED, FORMAT_VERSION, GRAPH, OPENVINO, POPCOUNT, WEIGHTS, require_openvino
from .fold import fold
from .plain import FeaturesAndLogits, plain_network

ONNX_OPSET = 17
NOT_ONE_BIT = "for interchange: its binary convolutions are ordinary ones, so it does not run in 1 bit"
FORMATS = ("openvino", "numba", "onnx", "torch-export")
_FILES = {CONFIG, GRAPH, WEIGHTS, FOLDED, "model.onnx", "model.pt2"}


def export(
    model: nn.Module, folder: Path, format: str = "openvino", img_size: int | None = None, batch_size: int = 1,
) -> dict[str, Any]:
    """Write `model` to `folder`, whole or not at all; returns what its config.json holds.

    Args:
        model: A timm model, in any mode; for `openvino` and `numba` a ReActNet with 1-bit weights and activations. It
            is only read.
        folder: New, empty, or written by this function before.
        format: `openvino`: model.xml, model.bin. `numba`: network.safetensors, for any CPU (numba is not needed to
            write it). `onnx`: model.onnx (opset 17). `torch-export`: model.pt2. Each with
            config.json: preprocessing, labels if known, versions.
        img_size: Pixels; None: the model's own.
        batch_size: Images a call. Both are fixed in the file.

    Raises:
        BurnError: A package is missing, the network does not fit the format, or `folder` holds something else.
    """
    folder = Path(folder)
    check_folder(folder)
    write = {"openvino": _openvino, "numba": _popcount, "onnx": _onnx, "torch-export": _torch_export}[format]
    data = resolve_model_data_config(model)
    channels, height, width = data["input_size"]
    shape = (batch_size, getattr(model, "in_chans", channels), img_size or height, img_size or width)
    with atomic_folder(folder) as beside, torch.no_grad():
        details = write(model, beside, shape)
        names = sorted(path.name for path in beside.iterdir())
        config = {
            **details,
            **describe(model, data, shape),
            "files": {name: hashlib.sha256((beside / name).read_bytes()).hexdigest() for name in names},
        }
        (beside / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return config


def check_folder(folder: Path) -> None:
    """Raise BurnError where writing to `folder` would replace anything but an earlier export."""
    if folder.exists() and not folder.is_dir():
        raise BurnError(f"{folder}: OUTDIR is a file; give a new folder")
    held = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if others := sorted(held - _FILES):
        raise BurnError(f"{folder}: would be replaced, but it also holds {others[0]}; give a new folder")


def describe(model: nn.Module, data: dict[str, Any], shape: tuple[int, int, int, int]) -> dict[str, Any]:
    """What a user of the exported network must know; in timm's words where timm has them."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    classes = getattr(model, "num_classes", 0)
    description = {
        "architecture": cfg.get("architecture") or type(model).__name__.lower(),
        "num_classes": classes,
        "num_features": model.num_features,
        "global_pool": getattr(getattr(getattr(model, "head", None), "global_pool", None), "pool_type", None),
        "batch_size": shape[0],
        "pretrained_cfg": {
            "input_size": list(shape[1:]), "fixed_input_size": True, "num_classes": classes,
            **{key: data[key] for key in ("interpolation", "mean", "std", "crop_pct", "crop_mode") if key in data},
        },
        "state_sha256": state_hash(model),
    }
    labels = cfg.get("label_names")
    if labels and len(labels) == classes:
        description["label_names"] = list(labels)
        if cfg.get("label_descriptions"):
            description["label_descriptions"] = cfg["label_descriptions"]
    return description


def _versions(**others: str) -> dict[str, str]:
    own = {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__}
    return {"burn_timm": __version__, **others, **own}


def _openvino(model: nn.Module, folder: Path, shape: tuple[int, int, int, int]) -> dict[str, Any]:
    network = fold(model)
    openvino = require_openvino()
    from .graph import build  # it needs OpenVINO at import

    graph, buffers = build(network, shape)
    openvino.save_model(graph, folder / GRAPH, compress_to_fp16=False)  # thresholds must stay as they are
    del graph, buffers
    versions = _versions(openvino=openvino.__version__)
    return {"format": OPENVINO, "format_version": FORMAT_VERSION, "one_bit": True, "versions": versions}


def _popcount(model: nn.Module, folder: Path, shape: tuple[int, int, int, int]) -> dict[str, Any]:
    folded.write(fold(model), folder / FOLDED)
    return {"format": POPCOUNT, "format_version": FORMAT_VERSION, "one_bit": True, "versions": _versions()}


def _onnx(model: nn.Module, folder: Path, shape: tuple[int, int, int, int]) -> dict[str, Any]:
    network, names = _network(model)
    version = to_onnx(network, folder / "model.onnx", shape, names)
    return {
        "format": "onnx", "opset": ONNX_OPSET, "one_bit": False, "note": NOT_ONE_BIT, "outputs": names,
        "versions": _versions(onnx=version),
    }


def to_onnx(network: nn.Module, path: Path, shape: tuple[int, int, int, int], names: list[str]) -> str:
    """Write one ONNX file of standard operators, opset 17, and check it; returns the version of onnx.

    Through torch's TorchScript exporter: it needs no package but onnx, and works in every torch since 2.6.

    Raises:
        BurnError: onnx is missing, or torch cannot export the network.
    """
    try:
        import onnx
    except ImportError as error:
        raise BurnError(f'onnx is missing ({one_line(error)}): pip install "burn-timm[onnx]"') from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecation, and shapes that become constants, as they shall
            torch.onnx.export(
                network, (torch.zeros(shape),), str(path), input_names=["images"], output_names=names,
                opset_version=ONNX_OPSET, dynamo=False,
            )
        written = onnx.load(path)
        onnx.helper.set_model_props(written, {"note": NOT_ONE_BIT})
        onnx.checker.check_model(written)
        onnx.save(written, path)
    except Exception as error:  # torch and onnx raise a dozen types
        raise BurnError(f"this network cannot be written as ONNX: {one_line(error)}") from error
    return onnx.__version__


def _torch_export(model: nn.Module, folder: Path, shape: tuple[int, int, int, int]) -> dict[str, Any]:
    network, names = _network(model)
    try:
        torch.export.save(torch.export.export(network, (torch.zeros(shape),)), folder / "model.pt2")
    except Exception as error:
        raise BurnError(f"this network cannot be exported by torch.export: {one_line(error)}") from error
    return {
        "format": "torch-export", "one_bit": False, "note": NOT_ONE_BIT, "outputs": names, "versions": _versions(),
    }


def _network(model: nn.Module) -> tuple[nn.Module, list[str]]:
    plain = plain_network(model).float().cpu()
    if getattr(model, "num_classes", 0):
        return FeaturesAndLogits(plain).eval(), ["features", "logits"]
    return plain, ["features"]


