"""InfoMin (Tian et al., NeurIPS 2020): MoCo on views that share little, with a jigsaw branch beside it.

    loss = (1 - w) InfoNCE(q, k) + w InfoNCE(q_jigsaw, k)

q_jigsaw is made of nine patches of the query's image, encoded one by one, in random order (PIRL, Misra and van der
Maaten, CVPR 2020). Key encoder and queue are MoCo's; the view is `infomin`.

DEVIATION: the patches are cut from the query's view as it is, colours, blur and all, and their offsets in the cells are
one draw for the whole batch (the orders are drawn for each image). The published jigsaw cuts them from a third view, a
crop of 0.6 to 1 of the image with a mirror image and nothing else, at 255 px, with offsets of its own for each image.
"""

import torch
import torch.nn as nn

from ..distributed import rank, world_size
from ..heads import projection_head
from ..losses import unit_vectors
from ..nn import Backbone
from .moco import MoCo

GRID = 3


class InfoMin(MoCo):
    """
    Args:
        jigsaw_weight: w; 0 leaves the branch out. All others are MoCo's; `head_norm` is of the branch's head, too.
    """

    default_view = "infomin"

    def __init__(
        self,
        backbone: Backbone,
        student_dim: int,
        head_dim: int = 128,
        temperature: float = 0.15,
        queue_size: int = 65536,
        target_momentum: float = 0.999,
        jigsaw_weight: float = 0.5,
        head_norm: bool = False,
    ):
        super().__init__(backbone, student_dim, head_dim, temperature, queue_size, target_momentum, head_norm)
        self.jigsaw_weight = jigsaw_weight
        if jigsaw_weight:
            self.patch_head = projection_head(student_dim, student_dim, head_dim, head_norm)
            self.jigsaw_head = nn.Linear(GRID * GRID * head_dim, head_dim)

    def forward(self, batch: dict[str, torch.Tensor], progress: float) -> dict[str, torch.Tensor]:
        images, other = batch["views"].unbind(1)
        queries = [unit_vectors(self.student_head(self.backbone(images)))]
        if self.jigsaw_weight:
            queries.append(self._jigsaw(images))
        loss, *jigsaw = self.keys.losses(other, self.temperature, *queries)
        if not jigsaw:
            return {"loss": loss}
        whole = (1 - self.jigsaw_weight) * loss + self.jigsaw_weight * jigsaw[0]
        return {"loss": whole, "loss_image": loss.detach(), "loss_jigsaw": jigsaw[0].detach()}

    def _jigsaw(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 `[B, 3, H, W]` to L2-normalised queries `[B, head_dim]` from shuffled patches."""
        batch = len(images)
        offsets, orders = self._draw(batch, images.shape[-1])
        patches = cut_patches(images, offsets)  # [B, 9, 3, p, p]
        features = self.patch_head(self.backbone(patches.flatten(0, 1), resize=False)).view(batch, GRID * GRID, -1)
        shuffled = features.gather(1, orders.to(features.device, non_blocking=True)[:, :, None].expand_as(features))
        return unit_vectors(self.jigsaw_head(shuffled.flatten(1)))

    def _draw(self, batch: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of this process and step: offsets of the patches in their cells `[9, 2]`, orders `[B, 9]`."""
        generator = self.keys.generator()
        cell = side // GRID
        offsets = torch.randint(0, cell - patch_side(side) + 1, (GRID * GRID, 2), generator=generator)
        orders = torch.rand(batch * world_size(), GRID * GRID, generator=generator).argsort(1)
        return offsets, orders[rank() * batch : (rank() + 1) * batch]


def patch_side(side: int) -> int:
    """Three quarters of a cell, as 64 px are of 85 in the published jigsaw, so that edges do not betray neighbours."""
    return max(1, side // GRID * 3 // 4)


def cut_patches(images: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """One patch of each cell of a 3 x 3 grid: `[B, 3, S, S]`, offsets in px `[9, 2]` -> `[B, 9, 3, p, p]`."""
    cell, patch = images.shape[-1] // GRID, patch_side(images.shape[-1])
    patches = []
    for index, (down, right) in enumerate(offsets.tolist()):
        top, left = index // GRID * cell + down, index % GRID * cell + right
        patches.append(images[:, :, top : top + patch, left : left + patch])
    return torch.stack(patches, dim=1)
