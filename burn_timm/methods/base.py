"""The contract of a training method."""

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn as nn

from ..nn import Backbone


class Method(nn.Module):
    """Loss and trained parts of one training method.

    `forward(batch, progress)` takes `batch["views"]`, uint8 `[B, V, 3, H, W]`, with V = `n_views`, `batch["target"]`,
    int64 `[B]` (-1 where there is no label), with W = `n_small_views` > 0 also `batch["small_views"]`, uint8
    `[B, W, 3, h, w]`, and progress in [0, 1] within the stage, on which every schedule depends as a pure function. It
    returns a dict of scalars: `loss`, with gradient, and what is to be logged, without.

    `backbone` is the network that is trained for export. The state dict leaves out the frozen `teacher` and is
    enough to resume exactly: queues and momentum targets are in it.

    Class attributes say what the training script has to supply:
        options: names of the constructor's keyword arguments besides `backbone`. Each is an option of train_burn.py
            (left out where that is not given, so that the constructor's default holds) or one of `teacher`,
            `teacher_dim`, `student_dim`, `num_classes`, `epochs` (of the stage, a float).
        teacher_output: None, or what the frozen teacher gives by default: pooled `features` or `logits`.
        needs_labels: whether `batch["target"]` must hold labels.
        default_view: name in `data.views.VIEWS` of all views, or a tuple with one name for each.
        small_view: name of the small views' setting.
    """

    options: tuple[str, ...] = ("student_dim",)
    teacher_output: str | None = None
    needs_labels = False
    n_views = 1
    default_view: str | tuple[str, ...] = "burn"
    n_small_views = 0
    small_view = "swav_small"

    def __init__(self, backbone: Backbone, teacher: nn.Module | None = None):
        super().__init__()
        self.backbone = backbone
        self.teacher = teacher
        self._register_state_dict_hook(_drop_teacher)

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
        return {"student": self.backbone}

    def load_state_dict(self, state_dict: Mapping, strict: bool = True, assign: bool = False):
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [name for name in result.missing_keys if not name.startswith("teacher.")]
        if strict and (missing or result.unexpected_keys):
            raise RuntimeError(f"method state: missing {missing}, unexpected {result.unexpected_keys}")
        return result

    def hand_over(self, state_dict: Mapping, reset_target_head: bool = False) -> None:
        """Take over the state of the previous stage (BURN, Sec. 3.4).

        `reset_target_head` keeps g_theta fresh, and with it the centre of its logits.
        """
        fresh = self.state_dict()
        carried = dict(state_dict)
        if reset_target_head:
            of_head = [name for name in fresh if name.startswith("target_head.") or name == "center"]
            carried.update({name: fresh[name] for name in of_head})
        self.load_state_dict(carried)


def _drop_teacher(module: nn.Module, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    for name in [name for name in state_dict if name.startswith(f"{prefix}teacher.")]:
        del state_dict[name]


def stack_views(views: torch.Tensor) -> torch.Tensor:
    """`[B, V, 3, H, W]` to `[V * B, 3, H, W]`, all of view 0 first."""
    return views.transpose(0, 1).flatten(0, 1)


def keep_in_state_dict(module: nn.Module, name: str) -> None:
    """Let the integer `module.<name>` be part of the state dict as a buffer would be, int64 `[]`.

    For what a step branches on or seeds with: reading a buffer would wait for the GPU.
    """
    module.register_state_dict_post_hook(partial(_put_number, name))
    module.register_load_state_dict_pre_hook(partial(_take_number, name))


def _put_number(name: str, module: nn.Module, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    state_dict[prefix + name] = torch.tensor(getattr(module, name))


def _take_number(
    name: str, module: nn.Module, state_dict: dict, prefix: str, local_metadata: dict, strict: bool,
    missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
) -> None:
    if prefix + name in state_dict:
        setattr(module, name, int(state_dict.pop(prefix + name)))
    else:
        missing_keys.append(prefix + name)
