"""The contract of a training method."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn as nn

from ..nn import Backbone, Frozen

# Arguments of a constructor that are no options: networks, sizes of their features, `num_classes` of the labels (None
# without labels), and `epochs`, the length of the stage (a float).
SUPPLIED = {"backbone", "teacher", "student_dim", "teacher_dim", "num_classes", "epochs"}


class Method(nn.Module):
    """Loss and trained parts of one training method.

    `forward(batch, progress)` takes `batch["views"]`, uint8 `[B, V, 3, H, W]`, with V = `n_views`, `batch["target"]`,
    int64 `[B]` (-1 where there is no label), with W = `n_small_views` > 0 also `batch["small_views"]`, uint8
    `[B, W, 3, h, w]`, and progress in [0, 1] within the stage, on which every schedule depends as a pure function. It
    returns a dict of scalars: `loss`, with gradient, and what is to be logged, without.

    `backbone` is the network that is trained for export, `student_head` is what a method trains on top of it. The state
    dict leaves out the frozen `teacher` and is enough to resume exactly: queues and momentum targets are in it.

    The training script gives the constructor `backbone` and those of `SUPPLIED` that it takes, by name. All its other
    arguments have defaults and are options of train_burn.py of the same name.

    Class attributes say what else the method needs:
        teacher_output: None, or what the frozen teacher gives by default: pooled `features` or `logits`.
        needs_labels: whether `batch["target"]` must hold labels.
        default_view: name in `data.views.VIEWS` of all views, or a tuple with one name for each.
        small_view: name of the small views' setting.
    """

    teacher_output: str | None = None
    needs_labels = False
    n_views = 1
    default_view: str | tuple[str, ...] = "burn"
    n_small_views = 0
    small_view = "swav_small"

    def __init__(self, backbone: Backbone, teacher: nn.Module | None = None):
        super().__init__()
        self.backbone = backbone
        self.teacher = None if teacher is None else Frozen(teacher)
        self.register_state_dict_post_hook(_drop_teacher)

    def student(self) -> nn.Module:
        """The module to export."""
        return self.backbone.model

    def classifier(self) -> nn.Linear | None:
        """A classifier on the student's features that is exported with it, where the method trains one on labels."""
        return None

    def taught(self, batch: Mapping[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        """The frozen teacher's outputs for `images`, or `batch["teacher"]`, `[B, 1, D]`, where they are cached."""
        return batch["teacher"][:, 0].float() if "teacher" in batch else self.teacher(images)

    def after_step(self, progress: float) -> None:
        """Called after every optimiser step with the progress of its forward pass; momentum targets move here."""

    def gradient_groups(self) -> dict[str, nn.Module]:
        """Modules whose gradient norm is logged as `grad_norm_<name>`."""
        return {"student": self.backbone, "student_head": self.student_head}

    @classmethod
    def options(cls) -> dict[str, Any]:
        """Names and defaults of the constructor's arguments that are options of train_burn.py."""
        parameters = inspect.signature(cls).parameters.values()
        return {parameter.name: parameter.default for parameter in parameters if parameter.name not in SUPPLIED}

    def load_state_dict(self, state_dict: Mapping, strict: bool = True, assign: bool = False):
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [name for name in result.missing_keys if not name.startswith("teacher.")]
        if strict and (missing or result.unexpected_keys):
            raise RuntimeError(f"method state: missing {missing}, unexpected {result.unexpected_keys}")
        return result

    def hand_over(self, state_dict: Mapping, reset_target_head: bool = False) -> None:
        """Take over the state of the previous stage (BURN, Sec. 3.4).

        `reset_target_head` keeps g_theta fresh.
        """
        kept = "target_head." if reset_target_head else ()
        self.load_state_dict({**state_dict, **{k: v for k, v in self.state_dict().items() if k.startswith(kept)}})


def _drop_teacher(module: nn.Module, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    for name in [name for name in state_dict if name.startswith(f"{prefix}teacher.")]:
        del state_dict[name]

