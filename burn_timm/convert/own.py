"""A network of this package in a file, a folder, a repository of the Hub or the package: which model, and what is told.

A file is this package's own, or a checkpoint of timm's training script, of Lightning, or a plain state dict.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub.errors import EntryNotFoundError

from ..checkpoints import (
    WEIGHTS_FILES,
    config_beside,
    download,
    model_source,
    read_content,
    read_state_dict,
    told_arguments,
    told_by_timm,
    weights_file,
)
from ..configs import images_of, read_config
from ..errors import BurnError, like, one_line
from ..files import read_json
from ..identify import binary_shapes, burn_models, classes_in, differences, infer_model
from ..packing import is_packed, trained_bits
from ..provenance import redact
from ..runs import summary_of
from .networks import find_networks
from .source import source_of

DETAILS = "training.json"
LATENT = "latent.safetensors"  # of a run of train_burn.py, beside its export
_AVERAGED = ("state_dict_ema", "model_ema")  # names of averaged weights in timm's checkpoints, which timm prefers
_IMAGES = ("img_size", "input_size", "crop_pct", "crop_mode", "mean", "std", "interpolation")  # timm's options


@dataclass
class Own:
    """Weights and all that stands beside them.

    Attributes:
        path: The file of weights.
        state_dict: Packed or float, in the names of the model.
        told: What the file, or the config.json beside it, tells: `model`, `model_args`, `weight_bits`.
        config: The config.json of a folder that was given; empty where a file was.
        details: How they were trained, as far as it is told.
        images: How images were prepared, in the names of timm's options or of config.json.
        notes: What was chosen and left out in the file, for people.
        label_names: Of the classes, as far as they are told.
    """

    path: Path
    state_dict: dict[str, torch.Tensor]
    told: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    label_names: list[str] = field(default_factory=list)

    def model(self, name: str | None = None, model_args: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Name and arguments of the model: as given, as told beside the weights, or by their shapes.

        Raises:
            BurnError: There is no such model, or the weights do not fit it.
        """
        if model_args and not name:
            raise BurnError("--model-kwargs: give --model too")
        where = self.path.parent / "config.json" if self.config else self.path
        told_name, told_args = self.told.get("model"), self.told.get("model_args") or {}
        if name or told_name:
            found = known(name or told_name, None if name else where)
            model_args = {**(told_args if found == told_name else {}), **(model_args or {})}
            where = self.path if name else where
        else:
            try:
                return infer_model(self.state_dict), {}
            except BurnError as error:
                raise BurnError(f"{self.path}: {error}, and --model-kwargs if its shape is its own") from error
        _require_fit(self.state_dict, found, model_args, where)
        return found, model_args

    def bits(self, name: str, model_args: Mapping[str, Any]) -> int | None:
        """With how many bits, 1 or 32, the binary weights were trained; None where nothing tells."""
        return trained_bits(self.state_dict, binary_shapes(name, model_args), self.told)

    def arguments(self, model_args: Mapping[str, Any]) -> dict[str, Any]:
        """`model_args`, and what the shapes of the weights tell: input channels and a hidden layer in the head. They
        tell the number of classes, too, which is no argument then."""
        stem, hidden = self.state_dict["stem.conv.weight"], self.state_dict.get("head.pre_logits.fc.weight")
        told = {"in_chans": stem.shape[1]} if stem.shape[1] != 3 else {}
        told |= {} if hidden is None else {"head_hidden_size": len(hidden)}
        return {name: value for name, value in {**model_args, **told}.items() if name != "num_classes"}

    def network(self, name: str, arguments: Mapping[str, Any]) -> torch.nn.Module:
        """The model with these weights and their classifier, for the images they were trained on, or BurnError."""
        model = timm.create_model(name, num_classes=classes_in(self.state_dict, name) or 0, **arguments)
        try:
            model.load_state_dict(self.state_dict)
        except RuntimeError as error:
            raise BurnError(f"{self.path}: does not fit {name}: {one_line(error, 1000)}") from error
        names = {"label_names": self.label_names} if len(self.label_names) == model.num_classes else {}
        model.pretrained_cfg = {**model.pretrained_cfg, **images_of(model, self.images), **names}
        return model.eval()


def known(model_name: str, where: Path | None = None) -> str:
    """The architecture's name, without the tag that timm's names may have; BurnError where it is none of ours."""
    at, architecture = f"{where}: " if where else "", model_name.partition(".")[0]
    if architecture not in burn_models():
        raise BurnError(f"{at}model {model_name}: not one of {', '.join(burn_models())}")
    try:
        timm.create_model(model_name, device="meta")
    except RuntimeError as error:
        raise BurnError(f"{at}model {model_name}: {str(error).rstrip('.')}; leave out the tag") from error
    return architecture


def read_own(source: str, part: str | None = None) -> Own:
    """Read `source`: a file, a folder, `local-dir:FOLDER`, `hf-hub:OWNER/NAME` or the name of released weights.

    Args:
        part: Which network of a training checkpoint; None: the averaged one (EMA), or the only one.

    Raises:
        BurnError: It cannot be read, holds several networks, or contradicts the config.json beside it.
    """
    if is_name(source) and (released := _released(source)):
        return released
    path = _local(source)
    file = weights_file(path)
    config = read_config(path) if path.is_dir() else {}  # the first to be told where it is wrong
    content, metadata = read_content(file)
    if metadata is None:
        own = _from_checkpoint(file, content, part)
    elif part:
        raise BurnError(f"{file}: --part is for training checkpoints; a safetensors file holds one network")
    else:
        own = Own(file, read_state_dict(file)[0], _told(file, metadata))
    if path.is_dir():
        own.config = config
    described = file.parent / "export" / WEIGHTS_FILES[0] if file.name == LATENT else file
    if config := own.config or config_beside(described):
        _tell_of_folder(own, described.parent, config)
    return own


def is_name(source: str) -> bool:
    """Whether `source` is a name of ours, with or without tag, and no file or folder."""
    return source.partition(".")[0] in burn_models() and not Path(source).exists()


def _released(name: str) -> Own | None:
    """The weights of a registered name that lie in the package, if it has some."""
    known(name)
    images = timm.get_pretrained_cfg(name).to_dict()
    if not images.get("file"):
        return None
    file = Path(images["file"])
    told = {"model": images["architecture"], "weight_bits": "1"}
    return Own(file, read_state_dict(file)[0], told, details=summary_of(file),
               images={option: images[option] for option in _IMAGES if option in images})


def _local(source: str) -> Path:
    if not source.startswith(("hf-hub:", "hf_hub:", "local-dir:", "local_dir:")):
        if not Path(source).exists():
            raise BurnError(f"{source}: no such file or folder{like(source, burn_models())}")
        return Path(source)
    kind, location = model_source(source)
    if kind == "local-dir":
        return Path(location)
    folder = download(source, "config.json").parent
    download(source, *WEIGHTS_FILES)
    for name in (DETAILS, "LICENSE"):
        try:
            download(source, name)
        except BurnError as error:
            if not isinstance(error.__cause__, EntryNotFoundError):  # which a repository may well lack
                raise
    return folder


def _from_checkpoint(file: Path, content: Any, part: str | None) -> Own:
    """The network in a torch file, behind whatever prefix it lies, with what a training script wrote beside it."""
    found = {}
    if isinstance(content, Mapping):
        source = source_of(file, content)
        found = {name: network for name, network in find_networks(source).items() if network.kind == "own"}
    if not found:
        return Own(file, read_state_dict(file)[0])  # which says what is wrong with it
    chosen = part or next((name for name in _AVERAGED if name in found), next(iter(found)))
    if chosen not in found or (part is None and len(found) > 1 and chosen not in _AVERAGED):
        what = f"--part {part}: the file" if part else "--part is needed: the file"
        raise BurnError(f"{file}: {what} holds the networks {', '.join(found)}")
    root, others = found[chosen].root, [network.root for name, network in found.items() if name != chosen]
    names = [name for name in source.tensors if name.startswith(root)
             and not any(other.startswith(root) and name.startswith(other) for other in others)]
    own = Own(file, {name.removeprefix(root): source.tensors[name].detach() for name in names},
              _told(file, told_by_timm(content)))
    if len(found) > 1:
        own.notes.append(f"weights of {chosen}; --part {' or '.join(set(found) - {chosen})} takes the others")
    elif surplus := [name for name in source.tensors if not name.startswith(root)]:
        own.notes.append(f"{len(surplus)} tensors beside the network left out: {', '.join(surplus[:3])}")
    _tell(own, content)
    return own


def _tell_of_folder(own: Own, folder: Path, config: dict[str, Any]) -> None:
    """What the folder of the weights says of them; floats beside an export know better themselves."""
    model_args = config.get("model_args") or {}
    told = {"model": config["architecture"], "model_args": model_args}
    told |= {name: str(model_args[name]) for name in ("weight_bits", "act_bits") if model_args.get(name)}
    if folder == own.path.parent:
        other = "1" if is_packed(own.state_dict) else own.told.get("weight_bits")
        if other and told.get("weight_bits", other) != other:
            raise BurnError(f"{folder / 'config.json'}: weight_bits {told['weight_bits']}, but the weights beside it "
                            f"say {other}; correct config.json")
        own.told |= told
    else:
        own.told = told | own.told
    own.images = {name: value for name, value in config.get("pretrained_cfg", config).items() if name in _IMAGES}
    own.label_names = config.get("label_names") or []
    own.details = read_json(folder / DETAILS) if (folder / DETAILS).is_file() else own.details


def _tell(own: Own, content: Mapping) -> None:
    """What timm's training script, or Lightning, wrote beside the weights."""
    done = f"{content['epoch'] + 1} epochs done" if isinstance(content.get("epoch"), int) else ""
    options = content.get("args")
    if isinstance(options, argparse.Namespace) and isinstance(content.get("arch"), str):
        options = vars(options)
        own.images = {name: options[name] for name in _IMAGES if options.get(name)}
        data = redact(str(options.get("dataset") or options.get("data_dir") or "")).removeprefix(".../")
        own.details = {"trained_by": f"timm's training script, {done}".rstrip(", "), "dataset": data,
                       "img_size": options.get("img_size"), "seed": options.get("seed")}
        if isinstance(content.get("metric"), float):
            own.details["metric"] = content["metric"]
    elif version := content.get("pytorch-lightning_version"):
        own.details = {"trained_by": f"PyTorch Lightning {version}, {done}".rstrip(", ")}


def _require_fit(state_dict: dict, name: str, model_args: Mapping[str, Any], where: Path) -> None:
    described = name + "".join(f", {key} {value}" for key, value in model_args.items())
    try:
        gaps = differences(state_dict, name, model_args)
    except Exception as error:  # whatever the model's constructor says to arguments that it cannot take
        raise BurnError(f"{where}: model {described}: {one_line(error)}") from error
    if gaps:
        more = f" (and {len(gaps) - 1} more)" if len(gaps) > 1 else ""
        raise BurnError(f"{where}: {described} does not fit the weights: {gaps[0]}{more}")


def _told(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    return {**metadata, **({"model_args": told_arguments(file, metadata)} if "model_args" in metadata else {})}
