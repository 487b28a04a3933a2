"""A 1-bit network in the place of a torch backbone, for the evaluations of frozen features."""

import importlib
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from .engine import OneBitModel, load
from .export import export


class EngineBackbone(nn.Module):
    """Pooled features `[B, D]` of images `[B, C, H, W]`, any B: an incomplete batch is filled up with zeros."""

    def __init__(self, model: OneBitModel):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = self.model.batch_size
        parts = []
        for part in x.split(size):
            filled = F.pad(part, (0, 0, 0, 0, 0, 0, 0, size - len(part)))
            parts.append(self.model.features(filled)[: len(part)])
        return torch.cat(parts)


def engine_backbone(
    model: nn.Module, img_size: int, batch_size: int = 16, threads: int | None = None, engine: str = "openvino",
) -> tuple[EngineBackbone, dict[str, str]]:
    """Export `model` as `burn-timm export` does, and open the result; also the engine in words, for a protocol.

    Raises:
        BurnError: The network has no 1-bit form, or the engine is missing.
    """
    with tempfile.TemporaryDirectory(prefix="burn-timm-") as folder:
        export(model, Path(folder) / "network", engine, img_size, batch_size)
        backbone = EngineBackbone(load(Path(folder) / "network", threads))
    return backbone, {"name": f"{engine}, 1-bit kernels", "version": importlib.import_module(engine).__version__}
