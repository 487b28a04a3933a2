"""A network to a folder of another engine: OpenVINO, C (1 bit), ONNX, torch.export (interchange, not 1 bit)."""

import hashlib
import importlib
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import provenance
from ..configs import images_of
from ..files import atomic_folder, require_replaceable, write_json
from .c_engine import C_SOURCES
from .fold import fold
from .interchange import NOT_ONE_BIT, ONNX_OPSET, Shape, write_onnx, write_torch_export
from .runtime import CONFIG, FORMAT_VERSION, ONE_BIT_FORMATS, PooledFeatures, engine, load

FORMATS = (*ONE_BIT_FORMATS, "onnx", "torch-export")
FILES = (
    CONFIG, "model.onnx", "model.pt2", "libburn.so", "__pycache__", *C_SOURCES,
    *(name for _, files in ONE_BIT_FORMATS.values() for name in files),
)


def export(
    model: nn.Module, folder: Path, format: str = "c", img_size: int | None = None,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Write `model` to `folder`, whole or not at all; returns what its config.json holds.

    Args:
        model: A timm model, in any mode; for `openvino` and `c` a binary one with 1-bit weights and activations. It
            is only read.
        folder: New, empty, or written by this function before.
        format: `openvino`: model.xml, model.bin. `c`: network.bin and the sources to compile with it, for any
            CPU (no compiler is needed to write them). `onnx`: model.onnx (opset 17). `torch-export`: model.pt2. Each
            with config.json: preprocessing, labels if known, versions.
        img_size: Pixels; None: the model's own.
        batch_size: Images that are computed at once; None: 1 on a 1-bit engine, any number in `onnx` and
            `torch-export`, which take just that number otherwise.

    Raises:
        BurnError: A package is missing, the network does not fit the format, or `folder` holds something else.
    """
    folder = Path(folder)
    require_replaceable(folder, FILES)
    data = images_of(model)
    channels, height, width = data["input_size"]
    batch_size = batch_size or (1 if format in ONE_BIT_FORMATS else None)
    shape = (batch_size, channels, img_size or height, img_size or width)
    with atomic_folder(folder) as beside, torch.no_grad():
        config = {**_write(model, format, beside, shape, data), **_described(model, data, shape)}
        used = {format: _version(format)} if format in ("openvino", "onnx") else {}
        config["versions"] = {**provenance.versions(), **used}
        config["files"] = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(beside.iterdir())
        }
        write_json(beside / CONFIG, config)
    return config


def _write(model: nn.Module, format: str, folder: Path, shape: Shape, data: dict[str, Any]) -> dict[str, Any]:
    """Write the network itself; returns what config.json says of its format."""
    if format in ONE_BIT_FORMATS:
        network = fold(model)
        if format == "openvino":
            engine(format).write(network, folder, shape)
        else:
            engine(format).write(network, folder, shape, data["mean"], data["std"])
        return {"format": ONE_BIT_FORMATS[format][0], "format_version": FORMAT_VERSION, "one_bit": True}
    if format == "onnx":
        written = {"opset": ONNX_OPSET, "outputs": write_onnx(model, folder / "model.onnx", shape)}
    else:
        written = {"outputs": write_torch_export(model, folder / "model.pt2", shape)}
    return {"format": format, "one_bit": False, "note": NOT_ONE_BIT, **written}


def _described(model: nn.Module, data: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """What a user of the exported network must know; in timm's words where timm has them."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    classes = getattr(model, "num_classes", 0)
    described = {
        "architecture": cfg.get("architecture") or type(model).__name__.lower(),
        "num_classes": classes,
        "num_features": model.num_features,
        "batch_size": shape[0],
        "pretrained_cfg": {
            "input_size": list(shape[1:]), "fixed_input_size": True, "num_classes": classes,
            **{key: data[key] for key in ("interpolation", "mean", "std", "crop_pct", "crop_mode") if key in data},
        },
    }
    labels = cfg.get("label_names")
    if labels and len(labels) == classes:
        described["label_names"] = list(labels)
        if cfg.get("label_descriptions"):
            described["label_descriptions"] = cfg["label_descriptions"]
    return described


def pooled_features(
    model: nn.Module, img_size: int, batch_size: int = 16, threads: int | None = None, format: str = "c",
) -> tuple[PooledFeatures, dict[str, str]]:
    """`model` on a 1-bit engine, for evaluations of frozen features, and the engine in words, for a protocol.

    Raises:
        BurnError: The network has no 1-bit form, or the engine is missing.
    """
    with tempfile.TemporaryDirectory(prefix="burn-timm-") as folder:
        export(model, Path(folder) / "network", format, img_size, batch_size)
        features = PooledFeatures(load(Path(folder) / "network", threads))
    return features, {"name": f"{format}, 1-bit kernels", "version": _version(format)}


def _version(package: str) -> str:
    return importlib.import_module("burn_timm" if package == "c" else package).__version__
