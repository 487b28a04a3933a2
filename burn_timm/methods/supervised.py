"""Supervised training, the rows "Supervised Pre." of the paper: by labels, or by a teacher's soft labels.

    supervised      cross-entropy of labels and student's logits
    supervised_kl   H(softmax(teacher's logits), softmax(student's logits)), ReActNet's distributional loss
                    (Liu et al., ECCV 2020, Eq. 7); the KL divergence but for the teacher's entropy, a constant

The classifier is exported with the network.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..distributed import most_exact
from ..losses import at_least_float32, soft_cross_entropy
from ..nn import Backbone, Frozen
from .base import Method

# Of the colours of ImageNet's pixels in [0, 1], red, green, blue: standard deviations along the principal components,
# and the components as columns (Krizhevsky et al., NeurIPS 2012, Sec. 4.1).
_DEVIATIONS = (0.2175, 0.0188, 0.0045)
_COMPONENTS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def lit(images: torch.Tensor, strength: float) -> torch.Tensor:
    """Images `[B, 3, H, W]` of 0 to 255 in another light: one shift of the colour an image (AlexNet's, ReActNet's).

    `strength` is the standard deviation of the shift along each component, in units of the pixels' own along it.
    """
    drawn = torch.randn(len(images), 3, device=images.device)
    shifts = (strength * drawn * drawn.new_tensor(_DEVIATIONS)) @ drawn.new_tensor(_COMPONENTS).T
    return images + 255 * shifts[:, :, None, None]


class Supervised(Method):
    """
    Args:
        backbone: uint8 images to features `[B, student_dim]`.
        num_classes: Of the labels.
        lighting: Strength of `lit` in training.
    """

    needs_labels = True
    default_view = "supervised"

    def __init__(self, backbone: Backbone, student_dim: int, num_classes: int, lighting: float = 0.0):
        super().__init__(backbone)
        self.student_head = nn.Linear(student_dim, num_classes)
        self.lighting = lighting

    def classifier(self) -> nn.Linear:
        return self.student_head

    def forward(self, batch: dict[str, torch.Tensor], progress: float) -> dict[str, torch.Tensor]:
        logits = self.student_head(self.backbone(self.images(batch)))
        loss = F.cross_entropy(at_least_float32(logits), batch["target"])
        return {"loss": loss, "top1": agreement(logits.argmax(-1), batch["target"])}

    def images(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        images = batch["views"][:, 0]
        return lit(images, self.lighting) if self.lighting and self.training else images


class SupervisedKL(Supervised):
    """
    Args:
        backbone: Student, uint8 images to features `[B, student_dim]`.
        teacher: Floating-point network to logits `[B, teacher_dim]`; frozen here.
        temperature: Of both softmaxes.
        lighting: Strength of `lit` in training; both networks see it.
    """

    teacher_output = "logits"
    needs_labels = False

    def __init__(
        self, backbone: Backbone, teacher: nn.Module, student_dim: int, teacher_dim: int, temperature: float = 1.0,
        lighting: float = 0.0,
    ):
        super().__init__(backbone, student_dim, teacher_dim, lighting)
        self.teacher = Frozen(teacher)
        self.temperature = temperature

    def forward(self, batch: dict[str, torch.Tensor], progress: float) -> dict[str, torch.Tensor]:
        images = self.images(batch)
        target = self.taught(batch, images)
        logits = self.student_head(self.backbone(images))
        return {
            "loss": soft_cross_entropy(target, logits, self.temperature),
            "agreement": agreement(logits.argmax(-1), target.argmax(-1)),
        }


def agreement(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Share of equal entries."""
    return (one == other).to(most_exact(one.device)).mean()
