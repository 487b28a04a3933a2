"""MoCo v2 (He et al., CVPR 2020; Chen et al., 2020): a query finds its image's key among those of a queue.

    f_q -> backbone, student_head        f_k -> keys.backbone, keys.head, moved by momentum m after every step

The tuned settings for binary networks are S2-BNN's (Shen et al., CVPR 2021): recipe `mocov2_imagenet`; the original
ones: `mocov2_original_imagenet`. In several processes the keys are computed in a common random order ("shuffling BN"),
so that the batch statistics do not give away which key belongs to which query.
"""

import torch
import torch.nn as nn

from ..distributed import gather_over_processes, rank, world_size
from ..heads import projection_head
from ..losses import info_nce, unit_vectors
from ..nn import Backbone, MomentumCopy
from .base import Method


class Queue(nn.Module):
    """The newest vectors of all processes, `[size, ..., dim]`, the same in every process; it starts with `start`."""

    def __init__(self, start: torch.Tensor):
        super().__init__()
        self.newest: torch.Tensor
        self.register_buffer("newest", start)
        self.seen = 0  # vectors that were ever put in; no buffer: reading one would wait for the GPU

    def get_extra_state(self) -> torch.Tensor:
        return torch.tensor(self.seen)

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.seen = int(state)

    @torch.no_grad()
    def put(self, new: torch.Tensor) -> None:
        """Put `[B, ..., dim]` of all processes in the place of the oldest ones."""
        size = len(self.newest)
        new = gather_over_processes(new)[-size:]
        places = (self.seen + torch.arange(len(new), device=new.device)) % size
        self.newest[places] = new.to(self.newest.dtype)
        self.seen += len(new)


class MomentumKeys(nn.Module):
    """The momentum encoder of keys and the queue of the newest `size` ones.

    Args:
        backbone, head: The trained networks that are followed; head gives `[B, dim]`.
        dim, size: Of a key, and their number in the queue; it starts with random directions.
        momentum: m.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, dim: int, size: int, momentum: float):
        super().__init__()
        self.backbone = MomentumCopy(backbone)
        self.head = MomentumCopy(head)
        self.momentum = momentum
        self.queue = Queue(unit_vectors(torch.randn(size, dim)))

    def generator(self) -> torch.Generator:
        """Of this step, the same in every process and in a resumed run."""
        return torch.Generator().manual_seed(self.queue.seen)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images `[B, 3, H, W]` to L2-normalised keys `[B, dim]`, without gradient."""
        with torch.no_grad():
            if world_size() == 1 or not self.training:
                return unit_vectors(self.head(self.backbone(images)))
            everything = gather_over_processes(images)
            order = torch.randperm(len(everything), generator=self.generator()).to(images.device, non_blocking=True)
            mine = order.chunk(world_size())[rank()]
            shuffled = unit_vectors(self.head(self.backbone(everything[mine])))
            keys = torch.empty(len(everything), shuffled.shape[1], dtype=shuffled.dtype, device=shuffled.device)
            keys[order] = gather_over_processes(shuffled)
            return keys.chunk(world_size())[rank()]

    def losses(self, images: torch.Tensor, temperature: float, *queries: torch.Tensor) -> list[torch.Tensor]:
        """InfoNCE of the keys of `images` with each of `queries` `[B, dim]`; in training the keys join the queue."""
        keys, negatives = self(images), self.queue.newest.clone()  # backward needs it after `put`
        if self.training:
            self.queue.put(keys)
        return [info_nce(each, keys, negatives, temperature) for each in queries]

    def update(self, backbone: nn.Module, head: nn.Module) -> None:
        self.backbone.update(backbone, self.momentum)
        self.head.update(head, self.momentum)


class MoCo(Method):
    """
    Args:
        backbone: uint8 images to features `[B, student_dim]`.
        head_dim: Size of queries and keys; the hidden layer is as wide as the features.
        temperature: Of InfoNCE.
        queue_size: K, number of negatives.
        target_momentum: m of the key encoder.
        head_norm: A BatchNorm in the head, which the published one has not.
    """

    n_views = 2
    default_view = "moco"

    def __init__(
        self,
        backbone: Backbone,
        student_dim: int,
        head_dim: int = 128,
        temperature: float = 0.2,
        queue_size: int = 65536,
        target_momentum: float = 0.999,
        head_norm: bool = False,
    ):
        super().__init__(backbone)
        self.student_head = projection_head(student_dim, student_dim, head_dim, head_norm)
        self.keys = MomentumKeys(backbone, self.student_head, head_dim, queue_size, target_momentum)
        self.temperature = temperature

    def forward(self, batch: dict[str, torch.Tensor], progress: float) -> dict[str, torch.Tensor]:
        views = batch["views"]
        queries = unit_vectors(self.student_head(self.backbone(views[:, 0])))
        return {"loss": self.keys.losses(views[:, 1], self.temperature, queries)[0]}

    def after_step(self, progress: float) -> None:
        self.keys.update(self.backbone, self.student_head)
