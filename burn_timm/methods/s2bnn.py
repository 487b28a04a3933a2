"""S2-BNN (Shen et al., CVPR 2021): a binary student repeats the soft assignment of a frozen floating-point network.

    loss = H(softmax(t / T), softmax(s / T)) + w * InfoNCE(s, keys)

t and s are the L2-normalised outputs of teacher and student. Distillation alone (w = 0) is what the paper ends with;
w = 1 is its sum with the contrastive loss, whose parts are MoCo's. The published teacher is MoCo v2 with its own head
(`--teacher-output logits`); pooled features of any backbone serve as well.
"""

import torch
import torch.nn as nn

from ..heads import projection_head
from ..losses import info_nce, soft_cross_entropy, unit_vectors
from ..nn import Backbone, Frozen
from .base import Method
from .moco import MomentumKeys


class S2BNN(Method):
    """
    Args:
        backbone: Student, uint8 images to features `[B, student_dim]`.
        teacher: Floating-point network to `[B, teacher_dim]`; frozen here.
        temperature: Of both losses.
        contrastive_weight: w; with 0 there is one view and neither key encoder nor queue.
        queue_size, target_momentum: Of the contrastive part, as MoCo's.
        head_norm: A BatchNorm in the head, which the published one has not.
    """

    options = (
        "teacher", "student_dim", "teacher_dim", "temperature", "contrastive_weight", "queue_size", "target_momentum",
        "head_norm",
    )
    teacher_output = "features"
    default_view = "moco"

    def __init__(
        self,
        backbone: Backbone,
        teacher: nn.Module,
        student_dim: int,
        teacher_dim: int,
        temperature: float = 0.2,
        contrastive_weight: float = 0.0,
        queue_size: int = 65536,
        target_momentum: float = 0.999,
        head_norm: bool = False,
    ):
        super().__init__(backbone, Frozen(teacher))
        self.student_head = projection_head(student_dim, student_dim, teacher_dim, head_norm)
        self.temperature = temperature
        self.contrastive_weight = contrastive_weight
        self.keys = None
        if contrastive_weight:
            self.n_views = 2
            self.keys = MomentumKeys(backbone, self.student_head, teacher_dim, queue_size, target_momentum)

    def gradient_groups(self) -> dict[str, nn.Module]:
        return {"student": self.backbone, "student_head": self.student_head}

    def forward(self, batch: dict[str, torch.Tensor], progress: float) -> dict[str, torch.Tensor]:
        images = batch["views"][:, 0]
        target = unit_vectors(self.taught(batch, images))
        student = unit_vectors(self.student_head(self.backbone(images)))
        distillation = soft_cross_entropy(target, student, self.temperature)
        if self.keys is None:
            return {"loss": distillation}
        keys = self.keys(batch["views"][:, 1])
        contrastive = info_nce(student, keys, self.keys.negatives(), self.temperature)
        if self.training:
            self.keys.enqueue(keys)
        return {
            "loss": distillation + self.contrastive_weight * contrastive,
            "loss_distillation": distillation.detach(),
            "loss_contrastive": contrastive.detach(),
        }

    def after_step(self, progress: float) -> None:
        if self.keys is not None:
            self.keys.update(self.backbone, self.student_head)
