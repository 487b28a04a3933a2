"""What a conversion gives, whichever the layout."""

from dataclasses import dataclass, field
from typing import Any

import torch

from .origins import ORIGINS, Origin
from .source import Ledger


@dataclass
class Converted:
    """A network in timm's names.

    Attributes:
        layout: The layout it came in.
        model_name, model_args, num_classes: What `timm.create_model` builds it with.
        state_dict: All of its tensors.
        ledger: Where the tensors of the file went.
        stage: `w1a1` or `w32a1` of a binary network, None of another.
        part: Which network of the file it is.
        variant: The key of its origin in ORIGINS, where that is not the layout.
        by_keys: Whether the layout was told by the keys, not by the user.
    """

    layout: str
    model_name: str
    state_dict: dict[str, torch.Tensor]
    ledger: Ledger
    num_classes: int = 0
    model_args: dict[str, Any] = field(default_factory=dict)
    stage: str | None = None
    part: str = "network"
    variant: str | None = None
    by_keys: bool = False

    @property
    def origin(self) -> Origin:
        return ORIGINS[self.variant or self.layout]
