"""SimCLR (Chen et al., ICML 2020): two views of an image agree, those of all other images of the batch disagree.

Version 2 (Chen et al., NeurIPS 2020) has a projection head of three layers.

In BURN's setting it makes the floating-point teacher where no pretrained one can be had.
"""

import torch

from ..heads import deep_projection_head, projection_head
from ..losses import nt_xent
from ..nn import Backbone
from .base import Method


class SimCLR(Method):
    """
    Args:
        backbone: uint8 images to features `[B, student_dim]`.
        head_dim: Size of the projection z on which the loss acts; hidden layers are as wide as the features.
        head_layers: 2, or 3 for version 2.
        temperature: Of NT-Xent.
    """

    n_views = 2
    default_view = "simclr"

    def __init__(
        self, backbone: Backbone, student_dim: int, head_dim: int = 128, temperature: float = 0.2, head_layers: int = 2,
    ):
        super().__init__(backbone)
        head = deep_projection_head if head_layers == 3 else projection_head
        self.student_head = head(student_dim, student_dim, head_dim)
        self.temperature = temperature

    def forward(self, batch: dict[str, torch.Tensor], progress: float) -> dict[str, torch.Tensor]:
        images = batch["views"].transpose(0, 1).flatten(0, 1)  # all of view 0 first: one BatchNorm batch, as published
        z1, z2 = self.student_head(self.backbone(images)).chunk(2)
        return {"loss": nt_xent(z1, z2, self.temperature)}
