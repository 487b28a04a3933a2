"""Weights into a model by all of timm's ways: its filter_fn, `checkpoint_path`, which never calls that, and
features_only, which renames; and by transformers, which sets parameters by name and calls nothing of torch or timm.
Only names and the classifier are of the models; the format is that of packing.py.
"""

import logging
import re

import torch
from torch import nn

from ..errors import BurnError
from ..nn import binary_weight_names
from ..packing import MARK, is_packed, restore_weight, unpack_state_dict, verify

_logger = logging.getLogger(__name__)
_LOADED = "_is_hf_initialized"  # how transformers marks the tensors that it has loaded


def checkpoint_filter_fn(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights as floats, every name but the classifier's checked: timm may load what this returns unstrictly.

    Raises:
        BurnError: Packed weights are malformed, or a tensor is missing or surplus. It names the tensor.
    """
    own = model.state_dict()
    if is_packed(state_dict):
        state_dict = unpack_state_dict(state_dict, {name: own[name].shape for name in binary_weight_names(model)})
    classifier = next(name for name, module in model.named_modules() if module is model.get_classifier())
    for name in sorted(set(state_dict) ^ set(own)):
        # torch itself fills in counters of steps, which old files lack
        if not name.startswith(f"{classifier}.") and not (name in own and name.endswith(".num_batches_tracked")):
            found = "is not in the file" if name in own else "is in the file but not in the model"
            raise BurnError(f"the weights do not fit the model: {name} {found}; are they another model's?")
    return state_dict


def load_hook(module: nn.Module, state_dict: dict, prefix: str, *args) -> None:
    """Check packed weights whole, then take the mark out; without classifier the model's own stays, which is told.

    Only what lies under `prefix` is looked at, so the model may sit inside a bigger module. torch hands a shallow copy
    of the caller's dict. Raises PackedError, see `packing.verify`.
    """
    inside = _below(prefix, state_dict)
    if not is_packed(inside):
        return
    verify(inside)
    del state_dict[prefix + MARK]
    head = {f"{prefix}head.fc.{name}": tensor for name, tensor in module.head.fc.state_dict().items()}
    if head and not head.keys() & state_dict.keys():
        _logger.warning("The packed weights have no classifier: head.fc keeps its random initialisation.")
        state_dict.update(head)


def load_features_hook(module: nn.Module, state_dict: dict, prefix: str, *args) -> None:
    """Let timm's features_only wrappers take a packed backbone (`checkpoint_path`): checked whole, then their names.

    What a wrapper has no place for must be the head or a whole stage that was pruned, else BurnError names it.
    """
    inside = _below(prefix, state_dict)
    if not is_packed(inside):
        return
    own = module.state_dict()
    verified = verify(inside)
    for name in inside:
        del state_dict[prefix + name]
    placed, surplus = set(), {}
    for name, tensor in verified.items():
        if name.endswith("weight_scale"):
            continue  # with its bits
        stem = name.removesuffix("_bits")
        flat = re.sub(r"^stages\.(\d+)\.", r"stages_\1.", stem)  # FeatureListNet and FeatureDictNet flatten
        # FeatureGetterNet holds the model as `model`, FeatureGraphNet as `graph_module`
        places = [place for place in (stem, flat, f"model.{stem}", f"graph_module.{stem}") if place in own]
        for place in places:
            scale, shape = verified.get(f"{stem}_scale"), own[place].shape
            state_dict[prefix + place] = restore_weight(tensor, scale, shape, stem) if stem != name else tensor
        part = re.match(r"stages\.\d+|\w+", stem)[0]
        placed.add(part) if places else surplus.setdefault(part, stem)
    for part in placed & surplus.keys():
        raise BurnError(f"the packed weights do not fit the model: {surplus[part]} is in the file but not in the model")


def _below(prefix: str, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)}


def mark_loaded(module: nn.Module, incompatible_keys: object) -> None:
    """Behind load_state_dict: mark tensors as transformers does, whose TimmBackbone else resets BatchNorm's statistics.

    (It does so to every network of timm, pretrained or not, since transformers 5.0.)
    """
    for tensor in (*module.parameters(), *module.buffers()):
        setattr(tensor, _LOADED, True)


def require_all_loaded(module: nn.Module) -> None:
    """Raise BurnError where a loader that knows names only, such as transformers', found no weights for a binary layer.

    It has marked the tensors that it found; without any mark nobody has loaded anything, which is no error.
    """
    loaded = {name: getattr(tensor, _LOADED, False) for name, tensor in module.named_parameters()}
    missing = [name for name in binary_weight_names(module) if not loaded[name]]
    if missing and any(loaded.values()):
        raise BurnError(
            f"the file has no {missing[0]}: only timm reads packed 1-bit weights. For transformers write floats: "
            "burn-timm unpack FOLDER FLOATS"
        )
