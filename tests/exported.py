"""Export folders of networks, as training writes them."""

from pathlib import Path

import torch

from burn_timm.compat import save_model_config
from burn_timm.nn import binary_weight_names
from burn_timm.packing import pack_state_dict, save_packed


def packed(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return pack_state_dict(model.state_dict(), binary_weight_names(model))


def write_export(folder: Path, model: torch.nn.Module, data_config: dict | None = None, **model_args) -> Path:
    """Packed weights and config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    save_packed(folder / "model.safetensors", packed(model))
    save_model_config(model, folder / "config.json", model_args, data_config or {})
    return folder
