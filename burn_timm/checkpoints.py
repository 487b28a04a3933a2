"""The reader of weights: any file, folder or repository of the Hub to a state dict, and to a model, strictly."""

import argparse
import contextlib
import json
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from timm.models import PretrainedCfg, clean_state_dict

from .compat import create_with_weights, load_pickle, save_model_config
from .configs import check_arguments, read_config
from .errors import BurnError, like, one_line, prefixed
from .files import instead_of, missing, read_json, write_json
from .identify import burn_models, classes_in, classifiers, shape_args
from .nn import binary_weight_names
from .packing import (
    digest,
    is_packed,
    pack_state_dict,
    read_tensors,
    save_packed,
    save_tensors,
    unpack_state_dict,
    verify,
)

WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")  # in a folder; timm's names
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict")  # timm's order, then others'
_FEATURE_ARGS = ("features_only", "out_indices", "feature_cls")
_LFS_POINTER = b"version https://git-lfs"


def weights_file(path: str | os.PathLike) -> Path:
    """`path` itself, or the weights in it where it is a folder (timm's names); BurnError where there are none."""
    path = Path(path)
    inside = [path / name for name in WEIGHTS_FILES]
    file = next((file for file in inside if file.is_file()), inside[0]) if path.is_dir() else path
    if not file.is_file():
        raise missing(file)
    return file


def read_state_dict(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """State dict and metadata of a safetensors or torch file, told apart by content.

    A torch file is unwrapped (`state_dict`, `model`, ...; prefixes `module.` and `_orig_mod.`); its metadata are what
    `told_by_timm` gives. A packed state dict is verified and returned as it is, mark included.

    Raises:
        BurnError: See `read_content`; or there is no state dict, or it is packed and malformed. It names the file and,
            where there is one, the tensor.
    """
    path = weights_file(path)
    content, metadata = read_content(path)
    state_dict = content if metadata is not None else _unwrapped(path, content)
    if is_packed(state_dict):
        with prefixed(path):
            verify(state_dict)
    return state_dict, told_by_timm(content) if metadata is None else metadata


def read_content(path: Path) -> tuple[Any, dict[str, str] | None]:
    """All that a safetensors file (its tensors, its metadata) or a torch file (any object, None) holds.

    Objects of foreign packages in a torch file become empty stand-ins: nothing of theirs is imported or run.

    Raises:
        BurnError: Truncated, damaged, a pointer of Git LFS, a pickle that would run code or that has the name of a
            safetensors file. It names the file.
    """
    with open(path, "rb") as file:
        start = file.read(len(_LFS_POINTER))
    if start == _LFS_POINTER:
        raise BurnError(f"{path}: a pointer of Git LFS, not the weights themselves; fetch them with: git lfs pull")
    # A safetensors file begins with the length of its header, whose bytes may be those by which a pickle begins.
    header = start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size
    if not header and (start[:2] == b"PK" or start[:1] == b"\x80"):
        if path.suffix == ".safetensors":
            raise BurnError(f"{path}: a torch (pickle) file under the name of a safetensors file; rename it to .pth")
        return _read_torch(path), None
    if header or path.suffix == ".safetensors":
        return read_tensors(path)
    raise BurnError(f"{path}: truncated or damaged, or neither a safetensors nor a torch file")


def _read_torch(path: Path) -> Any:
    try:
        return load_pickle(path)
    except pickle.UnpicklingError as error:
        if "truncated" in str(error):
            raise BurnError(f"{path}: truncated; copy or download the file again") from error
        raise BurnError(
            f"{path}: a pickle that is not safe to read ({one_line(error, 160)}); where it was made, write the state "
            "dict alone with safetensors.torch.save_file"
        ) from error
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError, ... for damaged files
        what = f"truncated or damaged ({one_line(error)})"
        raise BurnError(f"{path}: {what}; copy or download the file again") from error


def _unwrapped(path: Path, content: Any) -> dict[str, torch.Tensor]:
    while isinstance(content, Mapping) and (key := next((key for key in _WRAPPERS if key in content), None)):
        if not isinstance(content[key], Mapping):
            break
        content = content[key]
    advice = instead_of(path) or "; save model.state_dict()"
    if not isinstance(content, Mapping) or not content:
        raise BurnError(f"{path}: holds no state dict but {type(content).__name__}{advice}")
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise BurnError(f"{path}: {name} is {type(value).__name__}, not a tensor{advice}")
    return clean_state_dict(content)


def latent_metadata(
    model_name: str, weight_bits: int, model_args: Mapping[str, Any] | None = None, act_bits: int = 1,
) -> dict[str, str]:
    """Metadata of a float file: which model it is, and with how many bits (1 or 32) its binary weights were trained;
    activations of 32 bits have an entry, too.

    Arguments of the model other than its bits, if it has any, make the entry `model_args`, as JSON.
    """
    shape = shape_args(model_args)
    extra = {"model_args": shape} if shape != "{}" else {}
    extra |= {"act_bits": "32"} if act_bits == 32 else {}
    return {"burn_timm": "latent", "format": "pt", "model": model_name, "weight_bits": str(weight_bits), **extra}


def told_by_timm(content: Any) -> dict[str, str]:
    """What a checkpoint of timm's training script tells of a burn_timm model, in the words of `latent_metadata`; of
    one that has no options of the script, the model alone."""
    options, name = (content.get(key) for key in ("args", "arch")) if isinstance(content, Mapping) else (None, None)
    architecture = name.partition(".")[0] if isinstance(name, str) else ""
    if not isinstance(options, argparse.Namespace) or architecture not in burn_models():
        return {"model": architecture} if architecture in burn_models() else {}
    given = getattr(options, "model_kwargs", None)
    # what JSON does not have becomes text, which the model then refuses by name
    model_args = json.loads(json.dumps(dict(given), default=str)) if isinstance(given, Mapping) else {}
    if pooling := getattr(options, "gp", None):
        model_args = {"global_pool": pooling, **model_args}
    return latent_metadata(architecture, model_args.get("weight_bits", 1), model_args, model_args.get("act_bits", 1))


def told_arguments(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of the model, but for its bits, as the metadata of a file tell them; checked as in config.json."""
    model_args = metadata.get("model_args", "{}")
    with contextlib.suppress(ValueError, RecursionError):
        model_args = json.loads(model_args)
    return check_arguments(model_args, path)


def save_latent(
    path: str | os.PathLike, state_dict: Mapping[str, torch.Tensor], model_name: str, weight_bits: int,
    model_args: Mapping[str, Any] | None = None, act_bits: int = 1,
) -> None:
    """Write real-valued weights to a safetensors file, atomically; `burn-timm pack` reads its metadata."""
    save_tensors(path, state_dict, latent_metadata(model_name, weight_bits, model_args, act_bits))


def save_folder(
    folder: Path, model: torch.nn.Module, weight_bits: int, model_args: Mapping[str, Any],
    data_config: Mapping[str, Any], of_registration: bool = True, label_names: Sequence[str] = (),
) -> None:
    """Write into `folder` what timm builds `model` from, config.json and model.safetensors; 1-bit weights are packed.

    Args:
        weight_bits: With how many bits, 1 or 32, its binary weights were trained; 32 for other networks.
        model_args: Arguments of the model other than its classes.
        data_config: `input_size`, `crop_pct` and the like of its images.
        of_registration: Whether tag, licence and origin of the model's configuration are those of these weights.
        label_names: Of the classes; empty where they have none.
    """
    save_model_config(model, folder / "config.json", dict(model_args), dict(data_config))
    config = read_json(folder / "config.json")
    for name in () if of_registration else ("tag", "license", "origin_url"):
        config["pretrained_cfg"].pop(name, None)
    if label_names:
        config["label_names"] = list(label_names)
    write_json(folder / "config.json", config)
    state_dict = model.state_dict()
    if weight_bits == 1:
        save_packed(folder / "model.safetensors", pack_state_dict(state_dict, binary_weight_names(model)))
    else:
        save_latent(
            folder / "model.safetensors", state_dict, model.pretrained_cfg["architecture"], weight_bits, model_args,
            getattr(model, "act_bits", 1),
        )


def state_hash(module_or_state_dict: torch.nn.Module | Mapping[str, torch.Tensor]) -> str:
    """SHA-256, hexadecimal, over names, dtypes, shapes and bytes of all tensors (see `packing.digest`)."""
    if isinstance(module_or_state_dict, torch.nn.Module):
        module_or_state_dict = module_or_state_dict.state_dict()
    return digest(module_or_state_dict).hex()


def load_model(
    model_name: str, checkpoint: str | os.PathLike | None = None, num_classes: int | None = None,
    pretrained: bool | None = None, **kwargs: Any,
) -> torch.nn.Module:
    """Any timm model, in eval mode, with weights from a file, from timm, or random.

    Weights always load strictly, with the classifier they came with; only then is it replaced where `num_classes`
    differs.

    Args:
        model_name: A timm name; `local-dir:FOLDER` and `hf-hub:REPO` mean their weights too.
        checkpoint: A file (packed or float safetensors, or torch), or a folder with model.safetensors. What it, or
            config.json beside model.safetensors, tells of the model and of its images holds where `kwargs` do not say
            otherwise.
        num_classes: 0 removes the classifier, None keeps that of the weights (or the model's own).
        pretrained: timm's own weights; None: only with `local-dir:` and `hf-hub:`. Ignored with `checkpoint`.
        kwargs: Arguments of the model.

    Raises:
        BurnError: One line: the model, or the file and the tensor, and what is wrong with it.
    """
    require_model(model_name)
    architecture = architecture_of(model_name)  # which checks a config.json before anything is built from it
    source, location = model_source(model_name)
    model_name = f"{source}:{location}" if source else model_name  # timm does not take every spelling
    if checkpoint is None and source and pretrained is not False:
        checkpoint = location if source == "local-dir" else download(model_name, *WEIGHTS_FILES)
    if checkpoint is not None:
        path = weights_file(checkpoint)
        if not source and config_beside(path).get("architecture") == architecture:
            model_name = f"local-dir:{path.parent}"
        with prefixed(f"model {model_name}") if source == "hf-hub" else contextlib.nullcontext():
            model = _load(model_name, architecture, path, kwargs)
    elif pretrained:
        context = f"model {model_name}: its pretrained weights cannot be loaded"
        model = _create(model_name, context, pretrained=True, **kwargs)
    else:
        kwargs = kwargs if num_classes is None else {**kwargs, "num_classes": num_classes}
        return _create(model_name, f"model {model_name}", **kwargs).eval()
    if num_classes is not None and getattr(model, "num_classes", num_classes) != num_classes:
        model.reset_classifier(num_classes)  # features_only has no num_classes and stays as it is
    return model.eval()


def require_model(model_name: str) -> None:
    """Raise BurnError, with names that look alike, unless timm knows `model_name` or it is a folder or repository."""
    if ":" not in model_name and not timm.is_model(model_name):
        if Path(model_name).is_dir():
            raise BurnError(f"model {model_name}: to load this folder, write local-dir:{model_name}")
        near = like(model_name.partition(".")[0], timm.list_models())
        raise BurnError(f"model {model_name}: timm knows no such name{near}")


def architecture_of(model_name: str) -> str:
    """timm's name of the architecture behind a name with or without tag, `local-dir:` or `hf-hub:`."""
    source, location = model_source(model_name)
    if not source:
        return model_name.partition(".")[0]
    with prefixed(f"model {model_name}: its config.json cannot be used"):
        config = Path(location) / "config.json" if source == "local-dir" else download(model_name, "config.json")
        return read_config(config)["architecture"]


def model_source(model_name: str) -> tuple[str, str]:
    """`local-dir` and the folder, `hf-hub` and the repository, or two empty strings for a name of timm's."""
    source, colon, location = model_name.partition(":")
    source = source.replace("_", "-")
    if colon and source not in ("local-dir", "hf-hub"):
        raise BurnError(f"model {model_name}: expected a timm name, local-dir:FOLDER or hf-hub:OWNER/NAME")
    return (source, location) if colon else ("", "")


def download(model_name: str, *names: str) -> Path:
    """The first of the files `names` that the repository behind `hf-hub:OWNER/NAME[@REVISION]` has."""
    repo, _, revision = model_source(model_name)[1].partition("@")
    for name in names:
        try:
            return Path(hf_hub_download(repo, name, revision=revision or None))
        except EntryNotFoundError as error:
            failure = error
        except Exception as error:  # the Hub's own errors, and those of whichever HTTP library it uses
            failure = error
            break
    raise BurnError(f"model {model_name}: its {name} cannot be loaded: {one_line(failure)}") from failure


def _create(model_name: str, context: str, create: Any = timm.create_model, **kwargs: Any) -> torch.nn.Module:
    try:
        return create(model_name, **kwargs)
    except Exception as error:  # timm, torch, safetensors and the Hub raise a dozen types; the cause stays attached
        raise BurnError(f"{context}: {one_line(error)}") from error


def config_beside(weights: Path) -> dict[str, Any]:
    """The config.json that describes a weights file of timm's name; {} where there is none, or it is not timm's."""
    file = weights.parent / "config.json"
    known = weights.name in WEIGHTS_FILES and file.is_file() and "architecture" in read_json(file)
    return read_config(file) if known else {}


def _load(model_name: str, architecture: str, path: Path, kwargs: dict[str, Any]) -> torch.nn.Module:
    """The model with all of a file's weights, and as many classes as the file has."""
    state_dict, metadata = read_state_dict(path)
    config, size = timm.get_pretrained_cfg(architecture) or PretrainedCfg(), None
    told = architecture if ":" in model_name else config_beside(path).get("architecture", architecture)
    file = path if told == architecture else f"{path} (weights of {told}, by its config.json)"
    if architecture in burn_models():
        if ":" not in model_name and metadata.get("model") == architecture:
            kwargs = {**told_arguments(path, metadata), **kwargs}
        plain = {key: value for key, value in kwargs.items() if key not in _FEATURE_ARGS}
        model = _create(model_name, f"model {model_name}", **{**plain, "num_classes": 0, "device": "meta"})
        if lost := [f"{bits}=32" for bits in ("weight_bits", "act_bits")
                    if metadata.get(bits) == "32" and getattr(model, bits) == 1 and bits not in kwargs]:
            raise BurnError(f"{path}: trained with 32 bits, but {model_name} would use signs alone; give the folder of "
                            f"their export, or pass {' and '.join(lost)}")
        if is_packed(state_dict):
            shapes = {name: model.get_parameter(name).shape for name in binary_weight_names(model)}
            with prefixed(file):
                state_dict = unpack_state_dict(state_dict, shapes)
        first = state_dict.get(f"{config.first_conv}.weight")
        if first is not None and first.ndim == 4:
            channels = getattr(model, "in_chans", first.shape[1])
            if ":" in model_name and "in_chans" not in kwargs and channels != first.shape[1]:
                raise BurnError(f"{path}: is for images of {first.shape[1]} channels, but config.json says {channels}")
            size = (first.shape[1], *model.pretrained_cfg["input_size"][1:])
    elif is_packed(state_dict):
        raise BurnError(f"{file}: packed 1-bit weights, but {model_name} is no model of burn_timm")
    classes = classes_in(state_dict, architecture)
    if kwargs.get("features_only"):
        dropped = {f"{name}.{part}" for name in classifiers(architecture) for part in ("weight", "bias")}
        state_dict, classes = {name: state_dict[name] for name in state_dict if name not in dropped}, 0
    errors = []
    # a file of another library may name its classifier otherwise
    for count in (0, config.num_classes) if classes is None else (classes,):
        try:
            return _create(
                model_name, f"{file} does not fit {model_name}", create_with_weights, state_dict=state_dict,
                num_classes=count, input_size=size, **kwargs,
            )
        except BurnError as error:
            errors.append(error)
    raise errors[0]
