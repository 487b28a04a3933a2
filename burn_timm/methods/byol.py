"""BYOL (Grill et al., NeurIPS 2020): a predictor on one view's projection finds a slow target's of the other view.

    f -> backbone    g -> student_head    q -> predictor    target xi -> target_backbone, target_head

    loss = sum over both ways of 2 - 2 cos(q(g(f(v))), g_xi(f_xi(v')))                                        (Eq. 2)
    m(t) = 1 - (1 - m_0) (cos(pi t / T) + 1) / 2
"""

import torch
import torch.nn as nn

from ..heads import projection_head
from ..losses import feature_similarity
from ..nn import Backbone, MomentumCopy
from ..schedules import cosine
from .base import Method


class BYOL(Method):
    """
    Args:
        backbone: uint8 images to features `[B, student_dim]`.
        hidden_dim, head_dim: Of projector and predictor.
        target_momentum: m_0; it rises to 1.
    """

    n_views = 2
    default_view = ("byol1", "byol2")

    def __init__(
        self,
        backbone: Backbone,
        student_dim: int,
        hidden_dim: int = 4096,
        head_dim: int = 256,
        target_momentum: float = 0.99,
    ):
        super().__init__(backbone)
        self.student_head = projection_head(student_dim, hidden_dim, head_dim)
        self.predictor = projection_head(head_dim, hidden_dim, head_dim)
        self.target_backbone = MomentumCopy(backbone)
        self.target_head = MomentumCopy(self.student_head)
        self.target_momentum = target_momentum

    def gradient_groups(self) -> dict[str, nn.Module]:
        return {**super().gradient_groups(), "predictor": self.predictor}

    def momentum_at(self, progress: float) -> float:
        return cosine(progress, self.target_momentum, 1.0)

    def forward(self, batch: dict[str, torch.Tensor], progress: float) -> dict[str, torch.Tensor | float]:
        views = batch["views"].unbind(1)  # one by one: each is a BatchNorm batch of its own, as published
        predictions = [self.predictor(self.student_head(self.backbone(view))) for view in views]
        targets = [self.target_head(self.target_backbone(view)) for view in views]
        ways = zip(targets, reversed(predictions), strict=True)
        loss = sum(feature_similarity(target, prediction, "unit-l2") for target, prediction in ways)
        return {"loss": loss, "momentum": self.momentum_at(progress)}

    def after_step(self, progress: float) -> None:
        momentum = self.momentum_at(progress)
        self.target_backbone.update(self.backbone, momentum)
        self.target_head.update(self.student_head, momentum)
