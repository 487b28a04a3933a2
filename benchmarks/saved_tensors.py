"""What a forward pass keeps for the backward one: bytes, counted once each, by block and by tensor."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn as nn


@dataclass
class Saved:
    """Storages that were kept, each under the block that kept it first."""

    blocks: dict[str, int] = field(default_factory=dict)
    tensors: list[tuple[int, str, str, tuple[int, ...]]] = field(default_factory=list)  # bytes, block, dtype, shape

    @property
    def bytes(self) -> int:
        return sum(self.blocks.values())


@contextlib.contextmanager
def saved_tensors(model: nn.Module, blocks: dict[str, nn.Module] | None = None) -> Iterator[Saved]:
    """Count what is kept for the backward pass inside this block; parameters and buffers of `model` are not counted.

    Leave it before the backward pass. `blocks` (names and modules that do not contain one another) says where; what
    is kept outside of them, and all where hooks do not run (compiled code), counts as "other".
    """
    saved, current, hooks = Saved(), ["other"], []
    kept: list[torch.Tensor] = []  # so that no storage is freed, and its address used again, while we count
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    seen = set(own)

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept.append(tensor)
            saved.blocks[current[-1]] = saved.blocks.get(current[-1], 0) + storage.nbytes()
            saved.tensors.append((storage.nbytes(), current[-1], str(tensor.dtype)[6:], tuple(tensor.shape)))
        return tensor

    def leave(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        current.pop()

    for name, module in (blocks or {}).items():
        hooks.append(module.register_forward_pre_hook(lambda module, inputs, name=name: current.append(name)))
        hooks.append(module.register_forward_hook(leave))
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield saved
    finally:
        for hook in hooks:
            hook.remove()


def reactnet_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Stem, blocks and head of a ReActNet, ours or the reference's."""
    blocks = {f"stages.{i}.{j}": block for i, stage in enumerate(model.stages) for j, block in enumerate(stage)}
    return {"stem": model.stem, **blocks, "head": model.head}


def block_table(columns: dict[str, dict[str, int]]) -> str:
    """Markdown: a line a block, a column a network, in MB (10^6 bytes)."""
    names = list(dict.fromkeys(name for blocks in columns.values() for name in blocks))
    lines = ["| block | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name in names:
        cells = [f"{blocks[name] / 1e6:.1f}" if name in blocks else "0" for blocks in columns.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    totals = [f"{sum(blocks.values()) / 1e6:.1f}" for blocks in columns.values()]
    return "\n".join([*lines, "| all | " + " | ".join(totals) + " |"])
