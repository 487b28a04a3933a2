"""BURN: joint classifier learning with a frozen floating-point backbone (Kim and Choi, CVPR 2022, Algorithm 1).

    h_zeta  -> teacher        frozen backbone               k_phi -> backbone       the student to export
    g_theta -> target_head    classifier on the teacher     l_phi -> student_head   classifier on the student
    v1, v2  -> teacher and student features                 p1, p2 -> softmax of the two heads' logits

    loss_kl = KL(p2 || p1)                                                                    (Eq. 1, Algorithm 1)
    loss_fs = L_FS(v1, v2) = 1 - cos(v1, v2)                                                                 (Eq. 2)
    lambda(t) = lambda_T - (lambda_T - lambda_0) * (cos(pi t / T_max) + 1) / 2                               (Eq. 3)
    loss = (1 - lambda(t)) * loss_kl + lambda(t) * loss_fs                                                   (Eq. 4)

DEVIATION: `information_weight` and the target heads `frozen` and `information` are not the paper's; they keep the
information of the target, which decays where g_theta is trained by the same KL. `adapter` and the values `relations`
and `assignment` of `fs_loss` compare features in other ways.

DEVIATION: features of different sizes get a trained adapter on the student's side; the paper does not say how it
compares them. An adapter on the teacher's side could make both features constant, which L_FS would reward.
"""

import torch
import torch.nn as nn

from ..heads import kaiming_init, projection_head
from ..losses import feature_similarity, kl_divergence, target_entropies
from ..nn import Backbone
from ..schedules import lambda_at
from .base import Method

ADAPTERS = ("linear", "mlp")
TARGET_HEADS = ("joint", "frozen", "information")
TEACHER_NORMS = ("running", "batch")


class BURN(Method):
    """
    Args:
        backbone: Student, uint8 images to features `[B, student_dim]`.
        teacher: Floating-point backbone to features `[B, teacher_dim]`; frozen here.
        head_dim: Number of target classes K, and width of the hidden layer of both heads. (The paper calls a head
            "classifier" only.)
        temperature: Of both softmaxes; the paper states none, the released code has 0.2. 1.0 trained better in two
            trials (docs/experiments/cifar10.md).
        lambda_0, lambda_T, lambda_schedule: Eq. 3, or Table 7's `constant` and `step`.
        fs_loss: `cosine`, `l1`, `l2` (Table 6), `unit-l2` (released code), `relations` or `assignment`, see
            `losses.feature_similarity`.
        fs_temperature: Of `relations` and `assignment`.
        adapter: Form of the adapter of L_FS on features: `linear`, which is left out where feature sizes agree as in
            the paper, or `mlp` (the head of `s2bnn` with `head_norm`, hidden width student_dim).
        fs_on: `feature` (paper) or `projection`, the heads' logits (released code).
        views: `same`, one view for both networks (paper), or `cross`: there are two views, and each network sees the
            one that the other does not see, both ways (released code, which sums the two ways; here they are averaged).
            Each view is a BatchNorm batch of its own.
        kl_direction: `student-target`, D(p2 || p1), is Algorithm 1's; `target-student` the released code's.
        target_head: How g_theta learns. `joint` (paper): by the same loss. `frozen` (released code): it stays as
            Kaiming's initialisation draws it; its BatchNorm goes on normalising by the batch. `information`: by the
            information term alone; the KL does not train it.
        teacher_norm: BatchNorm of the teacher by its `running` statistics (paper), or by the `batch` (released code).
        information_weight: w in loss - w * (H(mean p1) - mean H(p1)); 0 is the paper.

    Raises:
        ValueError: `information` without a weight, by which g_theta would not be trained.
    """

    teacher_output = "features"
    default_view = "burn"

    def __init__(
        self,
        backbone: Backbone,
        teacher: nn.Module,
        student_dim: int,
        teacher_dim: int,
        head_dim: int = 2000,
        temperature: float = 1.0,
        lambda_0: float = 0.9,
        lambda_T: float = 0.7,  # noqa: N803 - the paper's name
        lambda_schedule: str = "cosine",
        fs_loss: str = "cosine",
        fs_temperature: float = 0.1,
        adapter: str = "linear",
        fs_on: str = "feature",
        views: str = "same",
        kl_direction: str = "student-target",
        target_head: str = "joint",
        teacher_norm: str = "running",
        information_weight: float = 0.0,
    ):
        super().__init__(backbone, teacher)
        self.teacher.by_batch = teacher_norm == "batch"
        if target_head == "information" and not information_weight:
            raise ValueError("target_head information needs an information_weight above 0")
        self.crossed = views == "cross"
        self.n_views = 2 if self.crossed else 1
        self.student_head = projection_head(student_dim, head_dim, head_dim)
        self.target_head = projection_head(teacher_dim, head_dim, head_dim)
        if target_head == "frozen":
            kaiming_init(self.target_head).requires_grad_(False)
        self.adapter = nn.Identity()
        if fs_on == "feature" and adapter == "mlp":
            self.adapter = projection_head(student_dim, student_dim, teacher_dim)
        elif fs_on == "feature" and student_dim != teacher_dim:
            self.adapter = nn.Linear(student_dim, teacher_dim)
        self.temperature = temperature
        self.lambdas = (lambda_0, lambda_T, lambda_schedule)
        self.fs_loss = (fs_loss, fs_temperature)
        self.fs_on = fs_on
        self.kl_direction = kl_direction
        self.kl_trains_target = target_head != "information"
        self.information_weight = information_weight

    def gradient_groups(self) -> dict[str, nn.Module]:
        return {**super().gradient_groups(), "target_head": self.target_head}

    def forward(self, batch: dict[str, torch.Tensor], progress: float) -> dict[str, torch.Tensor | float]:
        views = batch["views"].unbind(1)
        v1, v2 = [self.taught(batch, view) for view in views], [self.backbone(view) for view in views]
        if self.crossed:
            v1.reverse()  # the features of an image's one view stand beside those of its other view
        logits1, logits2 = joined(self.target_head, v1), joined(self.student_head, v2)
        target = logits1 if self.kl_trains_target else logits1.detach()

        lam = lambda_at(progress, *self.lambdas)
        loss_kl = kl_divergence(target, logits2, self.temperature, self.kl_direction)
        features = self.fs_on == "feature"
        compared = (torch.cat(v1), joined(self.adapter, v2)) if features else (target, logits2)
        loss_fs = feature_similarity(compared[0], compared[1], *self.fs_loss)
        loss = (1 - lam) * loss_kl + lam * loss_fs
        entropy_of_mean, mean_entropy = target_entropies(logits1, self.temperature)
        information = entropy_of_mean - mean_entropy
        if self.information_weight:
            loss = loss - self.information_weight * information
        return {
            "loss": loss,
            "loss_kl": loss_kl.detach(),
            "loss_fs": loss_fs.detach(),
            "lambda": lam,
            "entropy_of_mean": entropy_of_mean.detach(),
            "mean_entropy": mean_entropy.detach(),
            "target_information": information.detach(),
        }


def joined(head: nn.Module, features: list[torch.Tensor]) -> torch.Tensor:
    """`head` of each view's features `[B, D]` alone, one below the other."""
    return torch.cat([head(each) for each in features])
