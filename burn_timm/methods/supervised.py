"""Supervised training, the rows "Supervised Pre." of the paper: by labels, or by a teacher's soft labels.

    supervised      cross-entropy of labels and student's logits
    supervised_kl   H(softmax(teacher's logits), softmax(student's logits)), ReActNet's distributional loss
                    (Liu et al., ECCV 2020, Eq. 7); the KL divergence but for the teacher's entropy, a constant

The classifier is exported with the network.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..losses import soft_cross_entropy
from ..nn import Backbone, Frozen
from .base import Method


class Supervised(Method):
    """
    Args:
        backbone: uint8 images to features `[B, student_dim]`.
        num_classes: Of the labels.
        label_smoothing: In [0, 1].
    """

    options = ("student_dim", "num_classes", "label_smoothing")
    needs_labels = True
    default_view = "supervised"

    def __init__(self, backbone: Backbone, student_dim: int, num_classes: int, label_smoothing: float = 0.0):
        super().__init__(backbone)
        self.student_head = nn.Linear(student_dim, num_classes)
        self.label_smoothing = label_smoothing

    def classifier(self) -> nn.Linear:
        return self.student_head

    def gradient_groups(self) -> dict[str, nn.Module]:
        return {"student": self.backbone, "student_head": self.student_head}

    def forward(self, batch: dict[str, torch.Tensor], progress: float) -> dict[str, torch.Tensor]:
        logits = self.student_head(self.backbone(batch["views"][:, 0]))
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        loss = F.cross_entropy(logits, batch["target"], label_smoothing=self.label_smoothing)
        return {"loss": loss, "top1": (logits.argmax(-1) == batch["target"]).double().mean()}


class SupervisedKL(Method):
    """
    Args:
        backbone: Student, uint8 images to features `[B, student_dim]`.
        teacher: Floating-point network to logits `[B, teacher_dim]`; frozen here.
        temperature: Of both softmaxes.
    """

    options = ("teacher", "student_dim", "teacher_dim", "temperature")
    teacher_output = "logits"
    default_view = "supervised"

    def __init__(
        self, backbone: Backbone, teacher: nn.Module, student_dim: int, teacher_dim: int, temperature: float = 1.0,
    ):
        super().__init__(backbone, Frozen(teacher))
        self.student_head = nn.Linear(student_dim, teacher_dim)
        self.temperature = temperature

    def classifier(self) -> nn.Linear:
        return self.student_head

    def gradient_groups(self) -> dict[str, nn.Module]:
        return {"student": self.backbone, "student_head": self.student_head}

    def forward(self, batch: dict[str, torch.Tensor], progress: float) -> dict[str, torch.Tensor]:
        images = batch["views"][:, 0]
        target = self.taught(batch, images)
        logits = self.student_head(self.backbone(images))
        agreement = (logits.argmax(-1) == target.argmax(-1)).double().mean()
        return {"loss": soft_cross_entropy(target, logits, self.temperature), "agreement": agreement}
