"""An exported network in memory, with the face of a timm model."""

import hashlib
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from ..configs import check_exported_config
from ..errors import BurnError, one_line, require_package
from ..files import read_json

FORMAT_VERSION = 1
CONFIG = "config.json"
# --format -> what config.json calls it, and the files beside it.
ONE_BIT_FORMATS = {
    "openvino": ("burn-timm-openvino", ("model.xml", "model.bin")),
    "c": ("burn-timm-c", ("network.bin",)),
}

Array = TypeVar("Array", torch.Tensor, np.ndarray)


class OneBitModel:
    """A network that `load` has opened. Call it from as many threads as you like: images run one call at a time.

    Attributes:
        config: config.json of the folder.
        architecture: timm's name of the network.
        batch_size: Images that it computes at once. More are several calls, and fewer are filled up with zeros.
        input_size: `(C, H, W)`, which it was exported for.
        num_classes: 0 where it has no classifier.
        num_features: Channels of the feature map.
        pretrained_cfg: mean, std, crop_pct, ... as in timm, for `timm.data.resolve_model_data_config(model)`.
        label_names: Names of the classes, or None where the checkpoint had none.
    """

    def __init__(self, config: dict[str, Any], outputs: set[str], run: Callable[[np.ndarray, str], np.ndarray]):
        self.config = config
        self.architecture: str = config["architecture"]
        self.pretrained_cfg: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in config["pretrained_cfg"].items()
        }
        self.input_size: tuple[int, int, int] = self.pretrained_cfg["input_size"]
        self.batch_size: int = config["batch_size"]
        self.num_classes: int = config["num_classes"]
        self.num_features: int = config["num_features"]
        self.label_names: list[str] | None = config.get("label_names")
        self._outputs, self._network = outputs, run
        mean, std = (np.asarray(self.pretrained_cfg.get(key) or 0.5) for key in ("mean", "std"))
        self._largest = 10 * float((np.maximum(np.abs(mean), np.abs(1 - mean)) / std).max())

    def __call__(self, x: Array) -> Array:
        """Images `[B, C, H, W]`, floating point, normalised, to logits `[B, K]`.

        Without a classifier: what `features` gives, or the feature map where there is no pooling either. Torch gives
        torch (float32, on the device of `x`), numpy gives numpy.

        Raises:
            BurnError: Images of another shape than the network was exported for, no image, integers, or values more
                than ten times as large as normalised pixels are.
        """
        return self._run(x, next(name for name in ("logits", "features", "feature_map") if name in self._outputs))

    def features(self, x: Array) -> Array:
        """Pooled features `[B, D]`, the classifier's input; otherwise as `__call__`."""
        if "features" not in self._outputs:
            raise BurnError(f"this {self.architecture} was exported without pooling: use forward_features")
        return self._run(x, "features")

    def forward_features(self, x: Array) -> Array:
        """The feature map `[B, D, H / 32, W / 32]` before pooling, as timm's method of that name."""
        return self._run(x, "feature_map")

    def _run(self, x: Array, output: str) -> Array:
        expected = f"[B, {', '.join(map(str, self.input_size))}]"
        if not isinstance(x, (torch.Tensor, np.ndarray)):
            raise BurnError(f"expected a torch tensor or numpy array {expected}, not {type(x).__name__}")
        if x.ndim != 4 or tuple(x.shape[1:]) != self.input_size or not len(x):
            raise BurnError(f"images are {list(x.shape)}, but this {self.architecture} takes {expected}, channels "
                            "first, B at least 1; for another size export it with --img-size")
        if not (x.is_floating_point() if isinstance(x, torch.Tensor) else np.issubdtype(x.dtype, np.floating)):
            raise BurnError(f"images are {x.dtype}: expected floats, normalised with mean and std of pretrained_cfg")
        array = x.detach().float().cpu().numpy() if isinstance(x, torch.Tensor) else x
        array = np.ascontiguousarray(array, dtype=np.float32)
        largest = max(-array.min(), array.max())
        if largest > self._largest:
            raise BurnError(f"images have values as large as {largest:.4g}: expected pixels of 0 to 1, normalised "
                            "with mean and std of pretrained_cfg")
        size, results = self.batch_size, []
        for start in range(0, len(array), size):
            part = array[start : start + size]
            filled = part if len(part) == size else np.pad(part, ((0, size - len(part)), (0, 0), (0, 0), (0, 0)))
            results.append(self._network(filled, output)[: len(part)])
        result = results[0] if len(results) == 1 else np.concatenate(results)
        return torch.from_numpy(result).to(x.device) if isinstance(x, torch.Tensor) else result


class PooledFeatures(nn.Module):
    """Pooled features `[B, D]` of images `[B, C, H, W]`, as a module."""

    def __init__(self, model: OneBitModel):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model.features(x)


def load(folder: str | os.PathLike, threads: int | None = None) -> OneBitModel:
    """Open a folder that `burn-timm export --format openvino` or `--format c` wrote.

    Args:
        folder: With config.json and the files it names.
        threads: CPU threads at most; None: all cores.

    Raises:
        BurnError: No such folder, damaged files, the engine is missing, OpenVINO is outside the tested range, or has no
            1-bit kernels for this CPU.
    """
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise BurnError(f"threads must be a whole number of at least 1, not {threads}")
    folder = Path(folder)
    if not folder.is_dir():
        raise BurnError(f"{folder}: no such folder; expected one that burn-timm export wrote")
    format, config = _read_config(folder)
    shape = (config["batch_size"], *config["pretrained_cfg"]["input_size"])
    return OneBitModel(config, *engine(format).open_network(folder, shape, threads))


def engine(format: str) -> ModuleType:
    """`openvino_engine` or `c_engine`, imported; BurnError where OpenVINO is missing or broken."""
    if format != "c":
        require_package(format, format, f"a 1-bit network of --format {format}")
    try:
        return importlib.import_module(f".{format}_engine", __package__)
    except ImportError as error:
        raise BurnError(f'{format} cannot be loaded ({one_line(error)}): pip install "burn-timm[{format}]"') from error


def _read_config(folder: Path) -> tuple[str, dict[str, Any]]:
    """--format and config.json of an exported folder, whose files are checked against the checksums in it."""
    file = folder / CONFIG
    config = read_json(file)
    known = {name: (format, files) for format, (name, files) in ONE_BIT_FORMATS.items()}
    format, files = known.get(str(config.get("format")), (None, ()))
    if format is None:
        raise BurnError(f"{file}: no 1-bit network; write one with: burn-timm export CHECKPOINT FOLDER")
    version = config.get("format_version")
    if version != FORMAT_VERSION:
        raise BurnError(f"{file}: format_version {one_line(str(version), 60)}, but this burn_timm reads only "
                        f"{FORMAT_VERSION}: update it, or export again")
    check_exported_config(config, file)
    for name in files:
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise BurnError(f"{folder / name}: cannot be read ({error.strerror}); export again") from error
        if found != config["files"].get(name):
            raise BurnError(f"{folder / name}: truncated, damaged or from another export; copy or export it again")
    return format, config
