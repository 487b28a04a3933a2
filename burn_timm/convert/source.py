"""A checkpoint of any origin as one flat table of tensors, and the ledger in which each of them must end up."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import read_content, weights_file
from ..errors import BurnError
from .origins import ORIGINS, Origin

# Whole branches of a checkpoint that hold no network: optimisers, schedules, counters, losses with buffers, settings.
_TRAINING = {
    "optimizer", "optimizers", "optimizer_state_dict", "optimizer_states", "lr_schedulers", "scheduler", "lr_scheduler",
    "amp", "scaler", "fp16_scaler", "grad_scaler", "callbacks", "loops", "dino_loss", "args", "config", "hparams",
    "hyper_parameters", "epoch", "step", "steps", "global_step", "best_acc1", "best_acc", "best_top1_acc", "iteration",
    "phase_idx", "train_phase_idx", "num_updates", "meta", "losses", "loss", "hooks", "meters", "train",
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
        texts: Top-level and `meta` settings that are text.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    full: dict[str, str]
    training: list[str]
    texts: dict[str, str]

    def has(self, prefix: str) -> bool:
        """Whether any tensor's name starts with `prefix`."""
        return any(name.startswith(prefix) for name in self.tensors)

    def mentions(self, part: str) -> bool:
        """Whether `part` occurs in any tensor's name."""
        return any(part in name for name in self.tensors)


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
        if name not in self.left:
            raise BurnError(f"{self.source.path}: {name} is missing; is the file complete, and --from right?")
        self.converted.append(name)
        tensor = self.left.pop(name).detach()
        return tensor.float() if tensor.is_floating_point() else tensor

    def drop(self, prefix: str | Callable[[str], bool], reason: str) -> None:
        """Leave out, for `reason`, all that starts with `prefix` or fulfils it."""
        chosen = prefix if callable(prefix) else lambda name: name.startswith(prefix)
        names = [name for name in self.left if chosen(name)]
        for name in names:
            del self.left[name]
        if names:
            self.dropped.setdefault(reason, []).extend(names)

    def drop_twin(self, prefix: str, root: str) -> None:
        """Leave out `prefix`, the same module as `root` by another name; BurnError where the two differ."""
        tensors = self.source.tensors
        for name in [name for name in self.left if name.startswith(prefix)]:
            twin = tensors.get(root + name.removeprefix(prefix))
            if twin is None or not torch.equal(twin, tensors[name]):
                raise BurnError(f"{self.source.path}: {name} should equal its twin under {root}, but does not")
        self.drop(prefix, f"the same network as {root[:-1]}")

    def close(self, layout: str) -> None:
        """BurnError that names the first tensor of which nothing is known."""
        if self.left:
            name = next(iter(self.left))
            more = f" (and {len(self.left) - 1} more)" if len(self.left) > 1 else ""
            raise BurnError(
                f"{self.source.path}: {self.source.full[name]} {list(self.left[name].shape)} has no place in the "
                f"layout {layout}{more}; is --from right?"
            )

    def lines(self) -> list[str]:
        """The report: how many tensors were converted and, by reason, dropped, with examples."""
        total = len(self.converted) + sum(map(len, self.dropped.values()))
        lines = [f"{total} tensors in the file: {len(self.converted)} converted"]
        for reason, names in self.dropped.items():
            example = names[0] if len(names) == 1 else f"{names[0]}, ..."
            lines.append(f"{len(names)} dropped: {reason} ({example})")
        return lines + self.notes


@dataclass
class Converted:
    """A network in timm's names.

    Attributes:
        layout: The layout it came in.
        model_name, model_args, num_classes: What `timm.create_model` builds it with.
        state_dict: All of its tensors.
        ledger: Where the tensors of the file went.
        stage: `w1a1` or `w32a1` of a binary network, None of another.
        part: Which network of the file it is.
        variant: The key of its origin in ORIGINS, where that is not the layout.
        by_keys: Whether the layout was told by the keys, not by the user.
    """

    layout: str
    model_name: str
    state_dict: dict[str, torch.Tensor]
    ledger: Ledger
    num_classes: int = 0
    model_args: dict[str, Any] = field(default_factory=dict)
    stage: str | None = None
    part: str = "network"
    variant: str | None = None
    by_keys: bool = False

    @property
    def origin(self) -> Origin:
        return ORIGINS[self.variant or self.layout]
