"""BURN: joint classifier learning with a frozen floating-point backbone (Kim and Choi, CVPR 2022, Algorithm 1).

    h_zeta  -> teacher        frozen backbone               k_phi -> backbone       the student to export
    g_theta -> target_head    classifier on the teacher     l_phi -> student_head   classifier on the student
    v1, v2  -> teacher and student features                 p1, p2 -> softmax of the two heads' logits

    loss = (1 - lambda(t)) * KL(p2 || p1) + lambda(t) * L_FS(v1, v2)                                     (Eq. 4)

That is the paper. `target_head`, `information_weight`, `center_momentum` and `target_temperature` depart from it, so
that the target keeps its information; `fs_center`, `adapter` and most of `fs_loss` compare the features otherwise.

Feature sizes that differ get a trained adapter on the student's side, linear where nothing else is said. On the
teacher's side it could make both features constant, which L_FS would reward.
"""

import torch
import torch.nn as nn

from ..distributed import mean_over_processes
from ..heads import classifier_head
from ..losses import feature_similarity, kl_divergence, swapped_assignment, target_entropies
from ..nn import Backbone, Frozen, RunningMean
from ..schedules import lambda_at
from .base import Method, stack_views

TARGET_HEADS = ("joint", "frozen", "information", "swapped")


class BURN(Method):
    """
    Args:
        backbone: Student, uint8 images to features `[B, student_dim]`.
        teacher: Floating-point backbone to features `[B, teacher_dim]`; frozen here.
        head_dim, head_type: Number of target classes K and form of both heads.
        temperature: Of both softmaxes (but see target_temperature); the paper states none, the released code has 0.2.
            1.0 trained better in two trials (EXPERIMENTS.md).
        lambda_0, lambda_T, lambda_schedule: Eq. 3, or Table 7's `constant` and `step`.
        fs_loss: `cosine`, `l1`, `l2` (Table 6); `contrast`, `relations`, `assignment` and sums of these as
            losses.feature_similarity has them.
        fs_temperature: Of those after the first three.
        adapter: Form of the adapter of L_FS on features: `linear`, which is left out where feature sizes
            agree as in the paper, or `mlp` (the head of `s2bnn` with `head_norm`, hidden width student_dim).
        fs_center: Take the running mean of the teacher's features off them, in L_FS on features. After a ReLU all are
            positive, so that the cosine of any two images is large, and their differences are what tells them
            apart. A student of the same width must have features of either sign. Not in the paper.
        fs_on: `feature` (paper) or `projection`, the heads' logits (released code).
        views: `same`, one view for both networks (paper), or `cross`, each network sees the view that the other did
            not, both ways (released code, which sums the two ways; here they are averaged).
        kl_direction: `student-target`, D(p2 || p1), is Algorithm 1's; `target-student` the released code's.
        target_head: How g_theta learns. `joint` (paper): by the same loss. `frozen` (released code): it stays random.
            The KL stops at the others: `information` learns by the information term alone, `swapped` by telling from
            one view of an image which balanced class the other one has (SwAV, Caron et al., 2020, Eq. 2); the teacher
            then sees two views, the student the first of them, or both where `views` is `cross`.
        information_weight: w in loss - w * (H(mean p1) - mean H(p1)); 0 is the paper.
        target_temperature: Of the target's softmax, where it is another one: lower sharpens.
        center_momentum: m of the running mean of the target's logits that is taken off them. It starts at 0, so with
            m = 1 nothing is; it moves with every forward pass, accumulated ones too. Both as in DINO (Caron et al.,
            ICCV 2021, Eq. 4), which has 0.9.

    Raises:
        ValueError: `information` without a weight, by which g_theta would not be trained.
    """

    options = (
        "teacher", "student_dim", "teacher_dim", "head_dim", "head_type", "temperature", "lambda_0", "lambda_T",
        "lambda_schedule", "fs_loss", "fs_on", "views", "kl_direction", "target_head", "information_weight",
        "target_temperature", "center_momentum", "fs_center", "fs_temperature", "adapter",
    )
    teacher_output = "features"
    default_view = "burn"

    def __init__(
        self,
        backbone: Backbone,
        teacher: nn.Module,
        student_dim: int,
        teacher_dim: int,
        head_dim: int = 2000,
        head_type: str = "mlp",
        temperature: float = 1.0,
        lambda_0: float = 0.9,
        lambda_T: float = 0.7,  # noqa: N803 - the paper's name
        lambda_schedule: str = "cosine",
        fs_loss: str = "cosine",
        fs_on: str = "feature",
        views: str = "same",
        kl_direction: str = "student-target",
        target_head: str = "joint",
        information_weight: float = 0.0,
        target_temperature: float | None = None,
        center_momentum: float = 1.0,
        fs_center: bool = False,
        fs_temperature: float = 0.1,
        adapter: str = "linear",
    ):
        super().__init__(backbone, Frozen(teacher))
        if target_head == "information" and not information_weight:
            raise ValueError("target_head information needs an information_weight above 0")
        self.crossed = views == "cross"
        self.swapped = target_head == "swapped"
        self.n_views = 2 if self.crossed or self.swapped else 1
        self.student_head = classifier_head(student_dim, head_dim, head_type)
        self.target_head = classifier_head(teacher_dim, head_dim, head_type)
        if target_head == "frozen":
            self.target_head = Frozen(self.target_head)
        adapt = fs_on == "feature" and (student_dim != teacher_dim or adapter != "linear")
        self.adapter = classifier_head(student_dim, teacher_dim, adapter, student_dim) if adapt else nn.Identity()
        self.temperature = temperature
        self.lambdas = (lambda_0, lambda_T, lambda_schedule)
        self.fs_mean = RunningMean(teacher_dim) if fs_center else None
        self.fs_loss = (fs_loss, fs_temperature)
        self.fs_on = fs_on
        self.kl_direction = kl_direction
        self.kl_stops = target_head in ("information", "swapped")
        self.information_weight = information_weight
        self.target_temperature = target_temperature or temperature
        self.center_momentum = center_momentum
        if center_momentum < 1:
            self.register_buffer("center", torch.zeros(head_dim))

    def gradient_groups(self) -> dict[str, nn.Module]:
        return {"student": self.backbone, "student_head": self.student_head, "target_head": self.target_head}

    def forward(self, batch: dict[str, torch.Tensor], progress: float) -> dict[str, torch.Tensor | float]:
        images = stack_views(batch["views"])
        v1 = self.taught(batch, images)
        v2 = self.backbone(images if self.crossed else images[: len(batch["views"])])
        if self.crossed:
            v1 = v1.roll(len(v1) // 2, dims=0)  # each image's teacher features are those of its other view
        logits1, logits2 = self.target_head(v1), self.student_head(v2)
        values = {}
        if self.swapped:
            loss_swapped = swapped_assignment(*logits1.chunk(2), self.temperature)
            values["loss_swapped"] = loss_swapped.detach()
            v1, logits1 = v1[: len(v2)], logits1[: len(v2)]  # of the student's view, unless it has both

        lam = lambda_at(progress, *self.lambdas)
        target = self._centered(logits1)
        loss_kl = kl_divergence(
            target.detach() if self.kl_stops else target, logits2, self.temperature, self.kl_direction,
            self.target_temperature,
        )
        if self.fs_on == "feature":
            features = v1 if self.fs_mean is None else v1 - self.fs_mean(v1)
            loss_fs = feature_similarity(features, self.adapter(v2), *self.fs_loss)
        else:
            loss_fs = feature_similarity(logits1.detach() if self.kl_stops else logits1, logits2, *self.fs_loss)
        entropy_of_mean, mean_entropy = target_entropies(target, self.target_temperature)
        information = entropy_of_mean - mean_entropy
        loss = (1 - lam) * loss_kl + lam * loss_fs
        if self.swapped:
            loss = loss + loss_swapped
        if self.information_weight:
            loss = loss - self.information_weight * information
        return {
            "loss": loss,
            "loss_kl": loss_kl.detach(),
            "loss_fs": loss_fs.detach(),
            **values,
            "lambda": lam,
            "entropy_of_mean": entropy_of_mean.detach(),
            "mean_entropy": mean_entropy.detach(),
            "target_information": information.detach(),
        }

    def _centered(self, logits: torch.Tensor) -> torch.Tensor:
        """g_theta's logits `[B, K]` less the centre, which follows their mean while training."""
        if self.center_momentum == 1:
            return logits
        centered = logits - self.center
        if self.training:
            with torch.no_grad():
                self.center.lerp_(mean_over_processes(logits.to(self.center.dtype).mean(0)), 1 - self.center_momentum)
        return centered
