"""SwAV (Caron et al., NeurIPS 2020): every view predicts to which prototypes another view of the image was assigned.

    f -> backbone    projection -> student_head    C -> prototypes    codes q -> `sinkhorn`

    loss = mean over the two large views i, mean over all other views v, of H(q_i, softmax(C z_v / T))    (Eq. 2, 6)

The codes are of the large views alone. Small batches are filled up by a queue of earlier projections.
"""

from collections.abc import Mapping

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..distributed import rank, world_size
from ..heads import projection_head
from ..losses import sinkhorn, unit_vectors
from ..nn import Backbone
from .base import Method
from .moco import Queue


class SwAV(Method):
    """
    Args:
        backbone: uint8 images to features `[B, student_dim]`.
        epochs: Length of the stage; the next two are given in epochs of it.
        queue_start_epoch: From here on the queue is filled, and used when it is full.
        freeze_prototypes_epochs: So long do the prototypes stay as they start (published: 5,005 steps, one epoch).
        hidden_dim, head_dim: Of the projection.
        prototypes: Their number K.
        temperature: T.
        sinkhorn_epsilon, sinkhorn_iterations: Of the assignment.
        queue_size: Projections of each large view in the queue, over all processes.
        small_views: Number of small views (multi-crop).
    """

    n_views = 2
    default_view = "swav"

    def __init__(
        self,
        backbone: Backbone,
        student_dim: int,
        epochs: float,
        hidden_dim: int = 2048,
        head_dim: int = 128,
        prototypes: int = 3000,
        temperature: float = 0.1,
        sinkhorn_epsilon: float = 0.05,
        sinkhorn_iterations: int = 3,
        queue_size: int = 3840,
        queue_start_epoch: float = 15,
        freeze_prototypes_epochs: float = 1,
        small_views: int = 6,
    ):
        super().__init__(backbone)
        self.n_small_views = small_views
        self.student_head = projection_head(student_dim, hidden_dim, head_dim)
        self.prototypes = nn.Linear(head_dim, prototypes, bias=False)
        self.temperature = temperature
        self.sinkhorn = {"epsilon": sinkhorn_epsilon, "iterations": sinkhorn_iterations}
        self.queue_start = queue_start_epoch / epochs
        self.freeze_until = freeze_prototypes_epochs / epochs
        self.queue = Queue(torch.zeros(queue_size, 2, head_dim))  # projections of both large views
        self._normalise_prototypes()
        self._frozen = False
        # A gradient of zero, not none: DistributedDataParallel waits for every parameter's.
        self.prototypes.weight.register_hook(lambda grad: torch.zeros_like(grad) if self._frozen else grad)

    def gradient_groups(self) -> dict[str, nn.Module]:
        return {**super().gradient_groups(), "prototypes": self.prototypes}

    def forward(self, batch: dict[str, torch.Tensor], progress: float) -> dict[str, torch.Tensor]:
        self._frozen = progress < self.freeze_until
        if self._frozen:
            self._before = self.prototypes.weight.detach().clone()
        features = [self._features(batch["views"], resize=True)]
        if self.n_small_views:
            features.append(self._features(batch["small_views"], resize=False))
        z = unit_vectors(self.student_head(torch.cat(features)))  # one BatchNorm batch of all views, as published
        z = z.view(-1, len(batch["views"]), z.shape[-1])  # [V, B, head_dim]
        with torch.autocast(z.device.type, enabled=False):  # it would take the similarities in half precision
            scores = z @ self.prototypes.weight.T
        log_p = F.log_softmax(scores / self.temperature, dim=-1)
        loss = 0.0
        for i in range(2):
            codes = self._codes(i, scores[i].detach()).to(log_p.dtype)
            others = torch.cat([log_p[:i], log_p[i + 1:]])
            loss = loss - (codes * others).sum(-1).mean() / 2
        if self.training and progress >= self.queue_start:
            self.queue.put(z[:2].transpose(0, 1))
        return {"loss": loss}

    def hand_over(self, state_dict: Mapping, reset_target_head: bool = False) -> None:
        """All but the queue, which nothing would renew until `queue_start_epoch` of the new stage."""
        super().hand_over(state_dict, reset_target_head)
        self.queue.newest.zero_()
        self.queue.seen = 0

    def after_step(self, progress: float) -> None:
        if self._frozen:  # weight decay and momentum move what has no gradient
            self.prototypes.weight.data.copy_(self._before)
        self._normalise_prototypes()

    def _features(self, views: torch.Tensor, resize: bool) -> torch.Tensor:
        """uint8 `[B, V, 3, H, W]` to features `[V * B, student_dim]`, all of view 0 first."""
        return self.backbone(views.transpose(0, 1).flatten(0, 1), resize)

    @torch.no_grad()
    def _codes(self, view: int, scores: torch.Tensor) -> torch.Tensor:
        """Assignment `[B, K]` of large view `view`; the shares are over all processes and the queue, once."""
        if self.queue.seen < len(self.queue.newest):
            return sinkhorn(scores, **self.sinkhorn)
        with torch.autocast(scores.device.type, enabled=False):
            earlier = self.queue.newest[rank()::world_size(), view] @ self.prototypes.weight.T
        return sinkhorn(torch.cat([earlier, scores]), **self.sinkhorn)[len(earlier):]

    @torch.no_grad()
    def _normalise_prototypes(self) -> None:
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=-1))
