"""Banks of classifiers on features: one head for each learning rate, all trained on the same batches by SGD.

Training them side by side costs one pass over the images, or over augmented views, instead of one a learning rate.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

MOMENTUM = 0.9

Batches = Iterable[tuple[Tensor, Tensor]]  # features [B, D], labels [B]


class LinearBank:
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
    def step(self, x: Tensor, y: Tensor, rates: Sequence[float]) -> None:
        """One step on features `[B, D]` and labels `[B]`, each head at its rate."""
        rate = torch.tensor(rates, device=x.device)[:, None].expand_as(self.bias)
        gradient = self.logits(x).softmax(-1)
        gradient[:, torch.arange(len(x), device=x.device), y] -= 1
        gradient /= len(x)
        of_weight, of_bias = self.velocity
        of_weight.mul_(MOMENTUM).addmm_(x.T, gradient.transpose(0, 1).flatten(1))
        of_bias.mul_(MOMENTUM).add_(gradient.sum(1))
        if self.weight_decay:
            of_weight.add_(self.weight, alpha=self.weight_decay)
            of_bias.add_(self.bias, alpha=self.weight_decay)
        self.weight.sub_(of_weight * rate.flatten())
        self.bias.sub_(of_bias * rate)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """`[N, D]` to `[L, N, C]`."""
        return (x @ self.weight).unflatten(1, self.bias.shape).add_(self.bias).transpose(0, 1)


class MLPBank:
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

    def step(self, x: Tensor, y: Tensor, rates: Sequence[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        with torch.enable_grad():
            sum(F.cross_entropy(head(x), y) for head in self.heads).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """`[N, D]` to `[L, N, C]`."""
        return torch.stack([head(x) for head in self.heads])


def make_bank(
    probe: str, dim: int, classes: int, heads: int, *, weight_decay: float, device: torch.device, seed: int,
) -> LinearBank | MLPBank:
    """The bank of `--probe linear` or `mlp`."""
    if probe == "mlp":
        return MLPBank(dim, classes, heads, weight_decay, device, seed)
    return LinearBank(dim, classes, heads, weight_decay, device)


def fit(bank: LinearBank | MLPBank, epochs: Iterable[Batches], rates: Sequence[Sequence[float]]) -> None:
    """Train on the batches of each epoch at that epoch's learning rates, one for each head."""
    for batches, rate in zip(epochs, rates, strict=True):
        for x, y in batches:
            with _no_denormals():
                bank.step(x, y, rate)


@contextlib.contextmanager
def _no_denormals() -> Iterator[None]:
    """This thread takes denormal numbers as 0.

    Where a head is sure of its classes, its gradients underflow; x86 processors compute with such numbers so slowly
    that a whole sweep took 2.5 times as long.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def step_rates(lrs: Sequence[float], epochs: int, milestones: Sequence[float], factor: float = 0.1) -> list[list]:
    """Rates of each epoch: `lrs` times `factor` for each of the `milestones`, shares of the epochs, that has passed."""
    return [[lr * factor ** sum(epoch >= share * epochs for share in milestones) for lr in lrs]
            for epoch in range(epochs)]
