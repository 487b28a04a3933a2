"""Every private or version-dependent corner of timm, torch and accelerate that we touch, each a function of its own.

`tests/test_compat.py` has a test for each: when an upgrade breaks one, the test says which, and what to do.
"""

import os
from typing import Any

import torch

# timm: models and their registry ------------------------------------------------------------------------------------


def save_model_config(
    model: torch.nn.Module, path: str | os.PathLike, model_args: dict[str, Any], data_config: dict[str, Any],
) -> None:
    """Write the config.json by which timm builds `model` again; timm's public `save_for_hf` writes weights, too."""
    from timm.models import _hub

    _hub.save_config_for_hf(model, path, model_args=model_args, data_config=data_config)


# timm: dataset readers ----------------------------------------------------------------------------------------------


# torch: modules and state dicts -------------------------------------------------------------------------------------


# torch: optimisers and operators ------------------------------------------------------------------------------------


# torch: reading and exporting files ---------------------------------------------------------------------------------


# accelerate ---------------------------------------------------------------------------------------------------------


def use_cpu_is_set() -> bool:
    """Whether ACCELERATE_USE_CPU asks for the CPU; accelerate's own classes do not all look at it."""
    from accelerate.utils import parse_flag_from_env  # here, because accelerate is slow to import

    return parse_flag_from_env("ACCELERATE_USE_CPU")
