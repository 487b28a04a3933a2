"""config.json of a folder that timm loads: read and checked in this one place, before anything is built from it."""

import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
from torch import nn

from .errors import BurnError
from .files import read_json

_MOST = 65_536  # of any number of channels, blocks or pixels in `model_args`
_MOST_BLOCKS = 1_000
_NOT_FOR_FILES = ("device", "dtype", "pretrained", "checkpoint_path")  # where a model is built is the caller's choice


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """The content of a config.json, or of the one in a folder, checked by `check_config`."""
    path = Path(path)
    path = path / "config.json" if path.is_dir() else path
    return check_config(read_json(path), path)


def check_config(config: dict[str, Any], where: str | os.PathLike) -> dict[str, Any]:
    """`config` itself, if a timm model can be built from it.

    Raises:
        BurnError: An entry is missing, has another type, or a value that no network has. It names file and entry.
    """
    return _first_wrong(config, where, _wrong(config, registered=True))


def check_arguments(model_args: Any, where: str | os.PathLike) -> dict[str, Any]:
    """`model_args` itself, if it is an object of arguments that a file may give to a model.

    Raises:
        BurnError: As `check_config`.
    """
    return _first_wrong(model_args, where, _wrong_arguments(model_args))


def check_exported_config(config: dict[str, Any], where: str | os.PathLike) -> dict[str, Any]:
    """`config` itself, if it describes a network that `burn-timm export` wrote; timm need not know its name.

    Raises:
        BurnError: As `check_config`.
    """
    checks: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "batch_size": ("a whole number, 1 or more", lambda value: _whole(value, 1, _MOST)),
        "num_features": ("a whole number, 1 or more", lambda value: _whole(value, 1, 10_000_000)),
        "num_classes": ("a whole number, 0 or more", lambda value: _whole(value, 0, 10_000_000)),
        "files": ("an object of file: checksum", lambda value: isinstance(value, dict)),
        "pretrained_cfg": (
            "an object with input_size", lambda value: isinstance(value, dict) and value.get("input_size") is not None,
        ),
    }
    missing = ((name, config.get(name), expected) for name, (expected, fits) in checks.items()
               if not fits(config.get(name)))
    return _first_wrong(config, where, itertools.chain(missing, _wrong(config, registered=False)))


def images_of(model: nn.Module, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """timm's data config of a model, for as many channels as it takes.

    Args:
        options: Of timm's scripts (`img_size`, `mean`, ...), which come before what the model says.
    """
    images = timm.data.resolve_data_config(dict(options or {}), model=model)
    channels = getattr(model, "in_chans", images["input_size"][0])
    images["input_size"] = (channels, *images["input_size"][1:])
    for key in ("mean", "std"):
        if len(images[key]) != channels:  # timm keeps those of three channels for any number; the average suits all
            images[key] = (sum(images[key]) / len(images[key]),) * channels
    return images


def _first_wrong(config: dict[str, Any], where: str | os.PathLike, wrong: Iterable[tuple[str, Any, str]]) -> dict:
    for entry, value, expected in wrong:
        raise BurnError(f"{where}: {entry} must be {expected}, not {_shown(value)}")
    return config


def _wrong(config: dict[str, Any], registered: bool) -> Iterator[tuple[str, Any, str]]:
    """Each wrong entry, its value, and what it must be; `registered`: timm must know the architecture."""
    architecture = config.get("architecture")
    if not isinstance(architecture, str):
        yield "architecture", architecture, "the name of a model"
    elif registered and not timm.is_model(architecture):
        yield "architecture", architecture, "the name of a model that timm knows"
    if not _whole(config.get("num_classes", 0), 0, 10_000_000):
        yield "num_classes", config["num_classes"], "a whole number, 0 or more"
    yield from _wrong_arguments(config.get("model_args") or {})
    settings = config.get("pretrained_cfg", config)  # early versions of timm wrote one level only
    if not isinstance(settings, dict):
        yield "pretrained_cfg", settings, "an object"
        return
    checks: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "input_size": ("three whole numbers, channels, height and width", _is_size),
        "mean": ("finite numbers", lambda value: _numbers(value)),
        "std": ("numbers above 0", lambda value: _numbers(value) and min(value) > 0),
        "crop_pct": ("a number above 0", lambda value: _numbers([value]) and value > 0),
        "interpolation": ("text", lambda value: isinstance(value, str)),
        "num_classes": ("a whole number", lambda value: _whole(value, -1, 10_000_000)),
    }
    for name, (expected, fits) in checks.items():
        if settings.get(name) is not None and not fits(settings[name]):
            yield name, settings[name], expected
    for name, value in config.items():
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            yield name, value, "without NaN and infinity, which JSON does not have"


def _wrong_arguments(model_args: Any) -> Iterator[tuple[str, Any, str]]:
    if not isinstance(model_args, dict):
        yield "model_args", model_args, "an object of argument: value"
        return
    for name, value in model_args.items():
        if name in _NOT_FOR_FILES:
            yield f"{name} in model_args", value, "left out"
        elif name in ("weight_bits", "act_bits"):
            if value is not None and (isinstance(value, bool) or value not in (1, 32)):
                yield f"{name} in model_args", value, "1 or 32"
        elif name == "in_chans" and not _whole(value, 1, _MOST):
            yield f"{name} in model_args", value, "a whole number, 1 or more"
        elif name != "num_classes":
            inside = list(value) if isinstance(value, (list, tuple)) else [value]
            numbers = [entry for entry in inside if isinstance(entry, (int, float))]
            if not all(math.isfinite(entry) and abs(entry) <= _MOST for entry in numbers):
                yield f"{name} in model_args", value, f"a number of at most {_MOST:,}"
            elif name == "depths" and sum(numbers) > _MOST_BLOCKS:
                yield f"{name} in model_args", value, f"at most {_MOST_BLOCKS:,} blocks"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_size(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 3 and all(_whole(side, 1, _MOST) for side in value)


def _numbers(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and bool(values) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) for value in values
    )
