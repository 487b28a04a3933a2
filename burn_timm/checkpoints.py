"""Weights from files: reading them by content, finding the model they belong to, and loading them without surprises."""

import argparse
import difflib
import functools
import json
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, clean_state_dict, load_model_config_from_hf

from .errors import BurnError, one_line
from .models import BINARY_MODULES
from .nn import binary_weight_names
from .packing import (
    MARK,
    digest,
    is_packed,
    packed_shapes,
    packed_weight_names,
    read_tensors,
    save_tensors,
    unpack_state_dict,
    verify,
)

WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")  # in a folder; timm's names
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict")  # timm's order, then others'
_FEATURE_ARGS = ("features_only", "out_indices", "feature_cls")
_PICKLE_REMEDY = (
    "if you trust it, read it once with weights_only=False and write its state dict with safetensors.torch.save_file"
)


def burn_models() -> list[str]:
    """Names of the binary timm models that this package registers."""
    return [name for module in BINARY_MODULES for name in timm.list_models(module=module)]


def weights_file(path: str | os.PathLike) -> Path:
    """`path` itself, or the weights in it where it is a folder (timm's names); BurnError where there are none."""
    path = Path(path)
    inside = [path / name for name in WEIGHTS_FILES]
    file = next((file for file in inside if file.is_file()), inside[0]) if path.is_dir() else path
    if not file.is_file():
        raise BurnError(f"{file}: no such file")
    return file


def read_state_dict(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """State dict and metadata of a safetensors or torch file, told apart by content.

    A torch file is read with weights_only=True and unwrapped (`state_dict`, `model`, ...; prefixes `module.` and
    `_orig_mod.`); its metadata are empty. A packed state dict is verified and returned as it is, mark included.

    Raises:
        BurnError: No such file, truncated, damaged, a pickle that weights_only refuses or under the name of a
            safetensors file, or no state dict. It names the file and, where there is one, the tensor.
    """
    path = weights_file(path)
    content, metadata = read_content(path)
    state_dict = content if metadata is not None else _unwrapped(path, content)
    if is_packed(state_dict):
        try:
            verify(state_dict)
        except BurnError as error:
            raise BurnError(f"{path}: {error}") from error
    return state_dict, metadata or {}


def read_content(path: Path, placeholders: bool = False) -> tuple[Any, dict[str, str] | None]:
    """All that a safetensors file (its tensors, its metadata) or a torch file (any object, None) holds.

    With `placeholders`, settings and other objects of foreign packages in a pickle become empty stand-ins: nothing
    of theirs is imported or run. Raises BurnError as `read_state_dict` does.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04"):
        if path.suffix == ".safetensors":
            raise BurnError(f"{path}: a torch (pickle) file under the name of a safetensors file; rename it to .pth")
        return _read_torch(path, placeholders), None
    if start[8:] == b"{" or path.suffix == ".safetensors":
        return read_tensors(path)
    raise BurnError(f"{path}: truncated or damaged, or neither a safetensors nor a torch file")


class _Placeholder:
    """Stands for an object of a foreign class: takes any arguments and state, and stays empty."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


def _read_torch(path: Path, placeholders: bool = False) -> Any:
    stand_ins: dict[str, type] = {}
    while True:
        # timm's own checkpoints hold their arguments
        harmless = [argparse.Namespace, *((stand_in, name) for name, stand_in in stand_ins.items())]
        try:
            with torch.serialization.safe_globals(harmless):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            foreign = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
            mapping = re.search(r"Can only SETITEM .* but got <class '(\S+)'>", str(error))
            if placeholders and foreign and foreign[1] not in stand_ins and len(stand_ins) < 100:
                module, _, name = foreign[1].rpartition(".")
                stand_ins[foreign[1]] = type(name, (_Placeholder,), {"__module__": module})
                continue
            if mapping and stand_ins.get(mapping[1], dict) not in (dict, OrderedDict):
                stand_ins[mapping[1]] = OrderedDict  # torch fills no subclass of dict but this one
                continue
            try:
                refused = ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(path))
            except Exception:  # only the wording of the message depends on it
                refused = ""
            if not refused and "truncated" in str(error):
                raise BurnError(f"{path}: truncated; copy or download the file again") from error
            what = f"it holds Python objects ({refused})" if refused else one_line(error)
            raise BurnError(f"{path}: weights_only=True refuses this pickle: {what}; {_PICKLE_REMEDY}") from error
        except Exception as error:  # torch raises RuntimeError, EOFError, KeyError, ... for damaged files
            what = f"truncated or damaged ({one_line(error)})"
            raise BurnError(f"{path}: {what}; copy or download the file again") from error


def _unwrapped(path: Path, content: Any) -> dict[str, torch.Tensor]:
    while isinstance(content, Mapping) and (key := next((key for key in _WRAPPERS if key in content), None)):
        if not isinstance(content[key], Mapping):
            break
        content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise BurnError(f"{path}: holds no state dict but {type(content).__name__}; save model.state_dict()")
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise BurnError(f"{path}: {name} is {type(value).__name__}, not a tensor; save model.state_dict()")
    return clean_state_dict(content)


def latent_metadata(
    model_name: str, weight_bits: int, model_args: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Metadata of a float file: which model it is, and with how many bits (1 or 32) its binary weights were trained.

    Arguments of the model other than its bits, if it has any, make the entry `model_args`, as JSON.
    """
    shape = _shape_args(model_args)
    extra = {"model_args": shape} if shape != "{}" else {}
    return {"burn_timm": "latent", "format": "pt", "model": model_name, "weight_bits": str(weight_bits), **extra}


def save_latent(
    path: str | os.PathLike, state_dict: Mapping[str, torch.Tensor], model_name: str, weight_bits: int,
    model_args: Mapping[str, Any] | None = None,
) -> None:
    """Write real-valued weights to a safetensors file, atomically; `burn-timm pack` reads its metadata."""
    save_tensors(path, state_dict, latent_metadata(model_name, weight_bits, model_args))


def state_hash(module_or_state_dict: torch.nn.Module | Mapping[str, torch.Tensor]) -> str:
    """SHA-256, hexadecimal, over names, dtypes, shapes and bytes of all tensors (see `packing.digest`)."""
    if isinstance(module_or_state_dict, torch.nn.Module):
        module_or_state_dict = module_or_state_dict.state_dict()
    return digest(module_or_state_dict).hex()


def _shape_args(model_args: Mapping[str, Any] | None) -> str:
    """Arguments of a model as JSON; its bits, which change no shape, and its classes are left out."""
    others = ("weight_bits", "act_bits", "num_classes")
    return json.dumps({key: value for key, value in (model_args or {}).items() if key not in others}, sort_keys=True)


@functools.cache
def _plan(model_name: str, shape_args: str) -> tuple[dict[str, tuple[int, ...]], frozenset[str], str]:
    """Shapes by name of a burn_timm model without head, its binary weights, and the name of its first convolution."""
    model = timm.create_model(model_name, num_classes=0, device="meta", **json.loads(shape_args))
    tensors = model.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if not name.startswith("head.")}
    return shapes, frozenset(binary_weight_names(model)), model.pretrained_cfg["first_conv"]


def binary_shapes(model_name: str, model_args: Mapping[str, Any] | None = None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of a burn_timm model, made with `model_args`, that are stored as bits."""
    shapes, binary, _ = _plan(model_name, _shape_args(model_args))
    return {name: shapes[name] for name in shapes if name in binary}


def differences(
    state_dict: Mapping[str, torch.Tensor], model_name: str, model_args: Mapping[str, Any] | None = None,
) -> list[str]:
    """How `state_dict`, packed or float, differs from a burn_timm model, a phrase for each tensor; empty where it fits.

    The classifier, with the hidden layer it may have, and the number of input channels may be any.
    """
    shapes, binary, first_conv = _plan(model_name, _shape_args(model_args))
    packed = set(packed_weight_names(state_dict))
    expected = {}
    for name, shape in shapes.items():
        if name in binary and name in packed:
            expected[f"{name}_bits"], expected[f"{name}_scale"] = packed_shapes(shape)
        else:
            expected[name] = shape
    found = {
        name: tuple(tensor.shape) for name, tensor in state_dict.items()
        if name != MARK and not name.startswith("head.")
    }
    first = f"{first_conv}.weight"
    if len(found.get(first, ())) == 4:
        expected[first] = (expected[first][0], found[first][1], *expected[first][2:])
    missing = [f"{name} is missing" for name in expected if name not in found]
    surplus = [f"{name} is in the file but not in the model" for name in found if name not in expected]
    other = [
        f"{name} is {list(shape)} instead of {list(expected[name])}" for name, shape in found.items()
        if shape != expected.get(name, shape)
    ]
    return other + missing + surplus


def infer_model(state_dict: Mapping[str, torch.Tensor]) -> str:
    """Name of the burn_timm model whose names and shapes `state_dict` has, packed or float, with or without head.

    Names of one architecture that only extend each other (`reactnet_a`, `reactnet_a_burn`) count as the shortest.

    Raises:
        BurnError: None fits, with the first tensor that differs from the nearest; or several do.
    """
    gaps = {name: differences(state_dict, name) for name in burn_models()}
    fitting = sorted((name for name, gap in gaps.items() if not gap), key=len)
    if not fitting:
        nearest = min(gaps, key=lambda name: len(gaps[name]))
        raise BurnError(f"no burn_timm model fits; the nearest is {nearest}, but {gaps[nearest][0]}; give --model")
    if any(not name.startswith(fitting[0]) for name in fitting):
        raise BurnError(f"{', '.join(fitting)} fit all the same; give --model")
    return fitting[0]


def load_model(
    model_name: str, checkpoint: str | os.PathLike | None = None, num_classes: int | None = 0,
    pretrained: bool | None = None, **kwargs: Any,
) -> torch.nn.Module:
    """Any timm model, in eval mode, with weights from a file, from timm, or random.

    Weights always load strictly, with the classifier they came with; only then is it replaced where `num_classes`
    differs.

    Args:
        model_name: A timm name; `local-dir:FOLDER` and `hf-hub:REPO` mean their weights too.
        checkpoint: A file (packed or float safetensors, or torch), or a folder with model.safetensors.
        num_classes: 0 removes the classifier, None keeps that of the weights.
        pretrained: timm's own weights; None: only with `local-dir:` and `hf-hub:`. Ignored with `checkpoint`.
        kwargs: Arguments of the model.

    Raises:
        BurnError: One line: the model, or the file and the tensor, and what is wrong with it.
    """
    scheme, _, location = model_name.rpartition(":")
    if scheme == "local-dir" and checkpoint is None and pretrained is not False:
        checkpoint = location
    if pretrained is None:
        pretrained = scheme in ("local-dir", "hf-hub")
    require_model(model_name)
    if checkpoint is not None:
        return _load_checkpoint(model_name, weights_file(checkpoint), num_classes, kwargs)
    if not pretrained:
        kwargs = kwargs if num_classes is None else {**kwargs, "num_classes": num_classes}
        return _create(model_name, f"model {model_name}", False, **kwargs).eval()
    model = _create(model_name, f"model {model_name}: its pretrained weights cannot be loaded", True, **kwargs)
    return _with_classes(model, num_classes)  # features_only has no num_classes and stays as it is


def require_model(model_name: str) -> None:
    """Raise BurnError, with names that look alike, unless timm knows `model_name` or it is a folder or repository."""
    if ":" not in model_name and not timm.is_model(model_name):
        near = difflib.get_close_matches(model_name.partition(".")[0], timm.list_models(), n=3)
        raise BurnError(f"model {model_name}: timm knows no such name{'; is it ' + ' or '.join(near) if near else ''}?")


def _create(model_name: str, context: str, pretrained: bool, **kwargs: Any) -> torch.nn.Module:
    try:
        return timm.create_model(model_name, pretrained=pretrained, **kwargs)
    except Exception as error:  # timm, torch, safetensors and the hub raise a dozen types; the cause stays attached
        raise BurnError(f"{context}: {one_line(error)}") from error


def _with_classes(model: torch.nn.Module, num_classes: int | None) -> torch.nn.Module:
    if num_classes is not None and getattr(model, "num_classes", num_classes) != num_classes:
        model.reset_classifier(num_classes)
    return model.eval()


def _load_checkpoint(model_name: str, path: Path, num_classes: int | None, kwargs: dict[str, Any]) -> torch.nn.Module:
    state_dict, _ = read_state_dict(path)
    architecture = architecture_of(model_name)
    config = timm.get_pretrained_cfg(architecture) or PretrainedCfg()
    # timm's loader (first in its order: a state dict) applies each model's own renaming. It drops the classifier, and
    # with it the strictness, where the counts differ: so the model is first built with as many classes as the file has.
    overlay = {"source": "", "label_offset": 0}
    if architecture in burn_models():
        plain = {key: value for key, value in kwargs.items() if key not in _FEATURE_ARGS}
        model = _create(model_name, f"model {model_name}", False, **{**plain, "num_classes": 0, "device": "meta"})
        if is_packed(state_dict):
            shapes = {name: model.get_parameter(name).shape for name in binary_weight_names(model)}
            try:
                state_dict = unpack_state_dict(state_dict, shapes)
            except BurnError as error:
                raise BurnError(f"{path}: {error}") from error
        first = state_dict.get(f"{config.first_conv}.weight")
        if first is not None and first.ndim == 4:
            overlay["input_size"] = (first.shape[1], *model.pretrained_cfg["input_size"][1:])
    elif is_packed(state_dict):
        raise BurnError(f"{path}: packed 1-bit weights, but {model_name} is no model of burn_timm")
    names = (config.classifier,) if isinstance(config.classifier, str) else tuple(config.classifier or ())
    heads = [f"{name}.weight" for name in names if f"{name}.weight" in state_dict]
    counts = [len(state_dict[heads[0]])] if heads else [0, config.num_classes]
    if kwargs.get("features_only"):
        dropped = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
        state_dict, counts = {name: state_dict[name] for name in state_dict if name not in dropped}, [0]
    first_error = None
    for count in dict.fromkeys(counts):  # a file in the layout of another library may name its classifier otherwise
        own = {**overlay, "state_dict": dict(state_dict), "num_classes": count}
        try:
            model = _create(model_name, f"{path} does not fit {model_name}", True, pretrained_cfg_overlay=own, **kwargs)
            break
        except BurnError as error:
            first_error = first_error or error
    else:
        raise first_error
    model = _with_classes(model, num_classes)
    # timm keeps the overlay in the model: the weights would be there twice, and in each deep copy.
    model.pretrained_cfg = {**model.pretrained_cfg, "state_dict": None, "num_classes": getattr(model, "num_classes", 0)}
    model.default_cfg = model.pretrained_cfg
    return model


def architecture_of(model_name: str) -> str:
    """timm's name of the architecture behind a name with or without tag, `local-dir:` or `hf-hub:`."""
    scheme, _, location = model_name.rpartition(":")
    if not scheme:
        return model_name.partition(".")[0]
    try:
        if scheme == "local-dir":
            return json.loads((Path(location) / "config.json").read_text())["architecture"]
        return load_model_config_from_hf(location)[1]
    except Exception as error:  # the hub's errors, a damaged file, a missing entry
        raise BurnError(f"model {model_name}: its config.json cannot be read: {one_line(error)}") from error
