"""A checkpoint of any origin as one flat table of tensors, and the ledger in which each of them must end up."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import read_content, weights_file
from ..errors import BurnError

# Whole branches of a checkpoint that hold no network: optimisers, schedules, counters, losses with buffers, settings.
_TRAINING = {
    "optimizer", "optimizers", "optimizer_state_dict", "optimizer_states", "lr_schedulers", "scheduler", "lr_scheduler",
    "amp", "scaler", "fp16_scaler", "grad_scaler", "amp_scaler", "callbacks", "loops", "dino_loss", "args", "config",
    "hparams", "hyper_parameters", "epoch", "step", "steps", "global_step", "best_acc1", "best_acc", "best_top1_acc",
    "iteration", "phase_idx", "train_phase_idx", "num_updates", "meta", "losses", "loss", "hooks", "meters", "train",
}
_TRANSPARENT = {"module", "_orig_mod", "state_dict"}  # wrappers, wherever they stand in a name
_OUTER = ("classy_state_dict.base_model.model.", "model_state_dict.", "model.")  # and these at its beginning


@dataclass(frozen=True)
class Source:
    """What a file holds: every tensor by its short name, and the texts beside them.

    Attributes:
        path: The file.
        tensors: Short name to tensor. Short is a name without wrappers such as `state_dict.` and `module.`.
        full: Short name to the path of the tensor in the file, for messages.
        training: Paths of tensors that belong to an optimiser or the like.
        texts: Settings that are text.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    full: dict[str, str]
    training: list[str]
    texts: dict[str, str]

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor `name`; BurnError where the file has none."""
        if name not in self.tensors:
            raise BurnError(f"{self.path}: {name} is missing; is the file complete, and --from right?")
        return self.tensors[name]


def read_source(path: Path) -> Source:
    """Read a torch or safetensors file; BurnError names the file and what is wrong with it."""
    path = weights_file(path)
    return source_of(path, read_content(path)[0])


def source_of(path: Path, content: Any) -> Source:
    """The tensors in what `torch.load` gave for `path`; BurnError where there are none, or NaN among them."""
    if not isinstance(content, Mapping):
        raise BurnError(f"{path}: holds no weights by name but {type(content).__name__}; save a state dict")
    tensors, full, training, texts = {}, {}, [], {}
    for name, value in _leaves(content):
        if isinstance(value, str):
            texts[name] = value
        if not isinstance(value, torch.Tensor):
            continue
        head = name.removeprefix("classy_state_dict.").partition(".")[0]
        if head in _TRAINING and ("." in name or value.ndim == 0):
            training.append(name)
            continue
        short = _short(name)
        if short in tensors:
            raise BurnError(f"{path}: {full[short]} and {name} are the same weight; remove one of the two networks")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise BurnError(f"{path}: {name} holds NaN or infinite values; did the training diverge?")
        tensors[short], full[short] = value, name
    if not tensors:
        raise BurnError(f"{path}: holds no weights; its entries are {', '.join(map(str, list(content)[:5]))}")
    return Source(path, tensors, full, training, texts)


def _leaves(value: Any, name: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, (Mapping, list, tuple)):
        for key, inside in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _leaves(inside, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _short(name: str) -> str:
    name = next((name.removeprefix(outer) for outer in _OUTER if name.startswith(outer)), name)
    return ".".join(part for part in name.split(".") if part not in _TRANSPARENT)


@dataclass
class Ledger:
    """Where each tensor of a source went: taken into the new network, or dropped for a reason. Nothing is left over."""

    source: Source
    left: dict[str, torch.Tensor] = field(init=False)
    converted: list[str] = field(default_factory=list)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.left = dict(self.source.tensors)
        if self.source.training:
            self.dropped["optimiser and training state"] = list(self.source.training)

    def take(self, name: str) -> torch.Tensor:
        """The tensor `name`, in float32 where it is floating-point; BurnError where the file has none."""
        tensor = self.source.tensor(name).detach()
        self.converted.append(name)
        del self.left[name]
        return tensor.float() if tensor.is_floating_point() else tensor

    def drop(self, names: Iterable[str], reason: str) -> None:
        """Leave out those of `names` that are left, for `reason`."""
        names = [name for name in names if self.left.pop(name, None) is not None]
        if names:
            self.dropped.setdefault(reason, []).extend(names)

    def close(self, layout: str) -> None:
        """BurnError that names the first tensor of which nothing is known."""
        if self.left:
            name = next(iter(self.left))
            more = f" (and {len(self.left) - 1} more)" if len(self.left) > 1 else ""
            raise BurnError(
                f"{self.source.path}: {self.source.full[name]} {list(self.left[name].shape)} has no place in the "
                f"layout {layout}{more}; is it another kind of network, or --from wrong?"
            )

    def lines(self) -> list[str]:
        """The report: how many tensors were converted and, by reason, dropped, with examples."""
        total = len(self.converted) + sum(map(len, self.dropped.values()))
        lines = [f"{total} tensors in the file: {len(self.converted)} converted"]
        for reason, names in self.dropped.items():
            example = names[0] if len(names) == 1 else f"{names[0]}, ..."
            lines.append(f"{len(names)} dropped: {reason} ({example})")
        return lines + self.notes
