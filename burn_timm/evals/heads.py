"""Classifiers on features, one for each learning rate, all trained by SGD on the same batches.

Training them side by side costs one pass over the images, or over augmented views, instead of one a learning rate.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

MOMENTUM = 0.9
LAST_BATCH = "kept, smaller"  # of an epoch of augmented views, for protocols

Batches = Iterable[tuple[Tensor, Tensor]]  # features [B, D], labels [B]


class LinearHeads:
    """L softmax classifiers that start at zero.

    The gradient of the mean cross-entropy in the logits is (softmax - one_hot) / B, so autograd is not needed; the step
    is torch.optim.SGD's: v <- momentum * v + g + decay * w, w <- w - lr * v.
    """

    def __init__(self, dim: int, classes: int, heads: int, weight_decay: float, device: torch.device):
        self.weight = torch.zeros(dim, heads * classes, device=device)
        self.bias = torch.zeros(heads, classes, device=device)
        self.velocity = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        self.weight_decay = weight_decay

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor, lrs: Sequence[float]) -> None:
        """One step on features `[B, D]` and labels `[B]`, each head at its learning rate."""
        lr = torch.tensor(lrs, device=x.device)[:, None].expand_as(self.bias)
        gradient = self.logits(x).softmax(-1)
        gradient[:, torch.arange(len(x), device=x.device), y] -= 1
        gradient /= len(x)
        weight_velocity, bias_velocity = self.velocity
        weight_velocity.mul_(MOMENTUM).addmm_(x.T, gradient.transpose(0, 1).flatten(1))
        bias_velocity.mul_(MOMENTUM).add_(gradient.sum(1))
        if self.weight_decay:
            weight_velocity.add_(self.weight, alpha=self.weight_decay)
            bias_velocity.add_(self.bias, alpha=self.weight_decay)
        self.weight.sub_(weight_velocity * lr.flatten())
        self.bias.sub_(bias_velocity * lr)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """`[N, D]` to `[L, N, C]`."""
        return (x @ self.weight).unflatten(1, self.bias.shape).add_(self.bias).transpose(0, 1)


class MLPHeads:
    """L classifiers with a hidden layer as wide as the features and a ReLU; all start from the same seeded weights.

    DEVIATION: BURN's released code calls linear evaluation what trains the 1024-1024 layer that its backbone ends in
    together with the classifier. That layer comes pretrained; this one starts at random.
    """

    def __init__(self, dim: int, classes: int, heads: int, weight_decay: float, device: torch.device, seed: int):
        self.heads = []
        for _ in range(heads):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, classes))
            self.heads.append(head.to(device))
        groups = [{"params": head.parameters()} for head in self.heads]
        self.optimizer = torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, weight_decay=weight_decay)

    def step(self, x: Tensor, y: Tensor, lrs: Sequence[float]) -> None:
        """One step on features `[B, D]` and labels `[B]`, each head at its learning rate."""
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
            group["lr"] = lr
        with torch.enable_grad():
            sum(F.cross_entropy(head(x), y) for head in self.heads).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """`[N, D]` to `[L, N, C]`."""
        return torch.stack([head(x) for head in self.heads])


Heads = LinearHeads | MLPHeads


def fit(heads: Heads, epochs: Iterable[Batches], lrs: Sequence[Sequence[float]]) -> None:
    """Train on the batches of each epoch at that epoch's learning rates, one for each head.

    Denormal numbers are taken as 0: where a head is sure of its classes, its gradients underflow, and x86 processors
    compute with such numbers so slowly that a whole sweep took 2.5 times as long.
    """
    for batches, lrs_of_epoch in zip(epochs, lrs, strict=True):
        for x, y in batches:
            torch.set_flush_denormal(True)
            try:
                heads.step(x, y, lrs_of_epoch)
            finally:
                torch.set_flush_denormal(False)


def step_lrs(lrs: Sequence[float], epochs: int, milestones: Sequence[float], factor: float = 0.1) -> list[list[float]]:
    """The learning rates of each epoch: `lrs` times `factor` for every one of the `milestones`, shares of the epochs,
    that has passed."""
    return [[lr * factor ** sum(epoch >= share * epochs for share in milestones) for lr in lrs]
            for epoch in range(epochs)]


def topk_accuracy(logits: Tensor, labels: Tensor, k: int) -> float:
    """Share of the rows of [N, C] whose label is among the k largest."""
    return (logits.topk(k, dim=1).indices == labels[:, None]).any(1).double().mean().item()


def test_figures(logits: Tensor, labels: Tensor) -> dict:
    """What a classifier reports of the test images, from logits [M, C]: the accuracies `value` and `top5` (fractions;
    1 where there are no more than five classes) and `predicted`, int64 [M]."""
    return {
        "value": topk_accuracy(logits, labels, 1),
        "top5": topk_accuracy(logits, labels, min(5, logits.shape[1])),
        "predicted": logits.argmax(1),
    }
