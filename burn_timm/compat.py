"""Every private or version-dependent corner of timm, torch and accelerate that we touch, each a function of its own.

`tests/test_compat.py` has a test for each: when an upgrade breaks one, the test says which, and what to do.
"""

import argparse
import os
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.models._features import feature_take_indices as feature_take_indices
from torch import nn

from .files import read_json, write_json

# timm: models and their registry ------------------------------------------------------------------------------------

# Also `feature_take_indices`, above: which stages a call of forward_intermediates asks for.


def create_with_weights(
    model_name: str, state_dict: Mapping[str, torch.Tensor], num_classes: int,
    input_size: tuple[int, int, int] | None = None, **kwargs: Any,
) -> nn.Module:
    """The timm model `model_name` with the weights `state_dict`, loaded strictly through timm's own renaming.

    timm takes a state dict from the pretrained configuration. It drops the classifier, and with it the strictness,
    where the classes of model and weights differ, so both get `num_classes`. Raises whatever timm and torch raise.

    Args:
        input_size: Of the weights, where that is not the model's usual one: it tells the number of input channels.
    """
    overlay: dict[str, Any] = {"source": "", "label_offset": 0, "num_classes": num_classes}
    if input_size is not None:
        overlay["input_size"] = input_size
    model = timm.create_model(
        model_name, pretrained=True, num_classes=num_classes,
        pretrained_cfg_overlay={**overlay, "state_dict": dict(state_dict)}, **kwargs,
    )
    # timm keeps the overlay in the model: the weights would be there twice, and in each deep copy.
    model.pretrained_cfg = {**model.pretrained_cfg, "state_dict": None, "num_classes": num_classes}
    model.default_cfg = model.pretrained_cfg
    return model


def save_model_config(
    model: nn.Module, path: str | os.PathLike, model_args: dict[str, Any], data_config: dict[str, Any],
) -> None:
    """Write the config.json by which timm builds `model` again; timm's public `save_for_hf` writes weights, too."""
    from timm.models import _hub

    _hub.save_config_for_hf(model, path, model_args=model_args, data_config=data_config)
    write_config(path, read_json(path))


def write_config(path: str | os.PathLike, config: Mapping[str, Any]) -> None:
    """Write a config.json without the number of classes in `model_args`, which transformers would hand over twice.

    It stands beside `model_args` too.
    """
    config = dict(config)
    if model_args := config.get("model_args"):
        config["model_args"] = {name: value for name, value in model_args.items() if name != "num_classes"}
    write_json(path, config)


def require_stages(model_name: str, stages: int, out_indices: int | Sequence[int]) -> None:
    """Raise ValueError unless `features_only` with these `out_indices` asks for stages that there are."""
    try:
        feature_take_indices(stages, out_indices)
    except AssertionError as error:
        raise ValueError(
            f"out_indices {out_indices}: {model_name} has {stages} stages, numbered 0 to {stages - 1}"
        ) from error


# timm: dataset readers ----------------------------------------------------------------------------------------------


def wds_split(dataset) -> Any:
    """Of timm's dataset of shards: `num_samples`, `filenames` and `alt_label` (a field of the JSON, '' for none)."""
    return dataset.reader.split_info


def wds_share(dataset, rank: int, world_size: int) -> None:
    """Make timm's dataset of shards read the share of process `rank`, whatever torch.distributed says."""
    dataset.reader.dist_rank = rank
    dataset.reader.dist_num_replicas = world_size


def wds_decoder(dataset, decode: Callable[[dict], dict]) -> None:
    """Put `decode` (sample -> {"image": ..., "target": ...}) in place of timm's own decoder of samples.

    timm builds its pipeline at the first pass, in the process that reads; the last two stages are its decoder and a
    renaming of what that returns. A sample for which `decode` raises an error is left out with a warning, as in timm.
    """
    import webdataset
    from timm.data.readers.reader_wds import log_and_continue

    reader = dataset.reader
    if reader.ds is None:
        reader._lazy_init()
        dataset.reader.ds.pipeline[-2:] = [webdataset.map(decode, handler=log_and_continue)]


def wds_own_epoch(dataset) -> None:
    """Give timm's dataset of shards an epoch counter of its own: timm shares one between workers, and these do not turn
    over together."""
    dataset.reader.epoch_count = type(dataset.reader.epoch_count)()


def torchvision_targets(dataset) -> np.ndarray:
    """The classes of all images of a torchvision dataset, int64 [N]: most have `targets`, INaturalist an index of
    (class, file), and QMNIST's targets have the class in the first of eight columns."""
    known = getattr(dataset, "targets", None)
    if known is None:
        known = [category for category, _ in dataset.index]
    known = np.asarray(known, dtype=np.int64)
    return known if known.ndim == 1 else known[:, 0]


# torch: optimisers and operators ------------------------------------------------------------------------------------


def convolution_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of x `[B, I, H, W]` and weight `[O, I, k, k]` of `F.conv2d(x, weight, None, stride, padding)`.

    ATen's own operator, which no function of torch's interface calls for both at once.
    """
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, [True, True, False],
    )[:2]


# torch: reading and exporting files ---------------------------------------------------------------------------------

# What torch's messages say of a class that is not on its list, and of a mapping that it does not fill.
_FOREIGN_CLASS = re.compile(r"GLOBAL (\S+) was not an allowed global")
_FOREIGN_MAPPING = re.compile(r"Can only SETITEM .* but got <class '(\S+)'>")


class _Placeholder:
    """Stands for an object of a foreign class: takes any arguments and state, and stays empty."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):  # by torch 2.6; later versions refuse it themselves, in these words
        raise pickle.UnpicklingError(f"Can only SETITEM for dict, but got {type(self)}")


def load_pickle(path: str | os.PathLike) -> Any:
    """What a torch file holds, read with weights_only=True.

    Settings, numpy scalars and other objects of foreign classes become empty stand-ins: nothing of theirs is imported
    or run. Raises whatever torch raises, pickle.UnpicklingError for what it still refuses.
    """
    stand_ins: dict[str, type] = {}
    while True:
        # timm's own checkpoints hold their arguments
        harmless = [argparse.Namespace, *((stand_in, name) for name, stand_in in stand_ins.items())]
        try:
            with torch.serialization.safe_globals(harmless):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            foreign, mapping = _FOREIGN_CLASS.search(str(error)), _FOREIGN_MAPPING.search(str(error))
            if foreign and foreign[1] not in stand_ins and len(stand_ins) < 100:
                module, _, name = foreign[1].rpartition(".")
                stand_ins[foreign[1]] = type(name, (_Placeholder,), {"__module__": module})
            elif mapping and stand_ins.get(mapping[1], OrderedDict) is not OrderedDict:
                stand_ins[mapping[1]] = OrderedDict  # torch fills no subclass of dict but this one
            else:
                raise


def export_onnx(
    network: torch.nn.Module, path: Path, images: torch.Tensor, names: Sequence[str], opset: int,
    any_batch: bool = False,
) -> None:
    """Write an ONNX file with the input `images` and outputs of these names, of fixed shape, or with `any_batch`.

    Through torch's TorchScript exporter (`dynamo=False`): it needs no package but onnx, and works since torch 2.6.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation, and shapes that become constants, as they shall
        torch.onnx.export(
            network, (images,), str(path), input_names=["images"], output_names=list(names), opset_version=opset,
            dynamo=False, dynamic_axes={name: {0: "batch"} for name in ("images", *names)} if any_batch else None,
        )


# accelerate ---------------------------------------------------------------------------------------------------------


def use_cpu_is_set() -> bool:
    """Whether ACCELERATE_USE_CPU asks for the CPU; accelerate's own classes do not all look at it."""
    from accelerate.utils import parse_flag_from_env  # here, because accelerate is slow to import

    return parse_flag_from_env("ACCELERATE_USE_CPU")


def launcher_arguments() -> dict[str, Any]:
    """The arguments of the `accelerate launch` that started this process, {} where something else did.

    They are read from that process's command line: the launcher hands some of them to DeepSpeed only.
    """
    import psutil  # accelerate needs it

    try:
        words = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return {}
    names = [os.path.basename(word) for word in words]
    for place, name in enumerate(names):
        if name in ("accelerate-launch", "accelerate.commands.launch") or names[place - 1 : place + 1] == [
            "accelerate", "launch",
        ]:
            from accelerate.commands.launch import launch_command_parser

            return vars(launch_command_parser().parse_args(words[place + 1 :]))
    return {}
