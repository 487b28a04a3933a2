"""Linear probe on cached frozen features, after the published ImageNet protocol.

SGD with momentum 0.9, no weight decay, batches of 256, 100 epochs, learning rate x0.1 at 60 % and 80 % of them (He et
al., MoCo, https://arxiv.org/abs/1911.05722, and the BURN paper). Two things differ and are stated in the protocol: the
features are extracted once (no augmentation) and standardised, and the learning rate is chosen per network, because one
rate does not suit features of different scale.
"""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BurnError
from .features import check_features

_logger = logging.getLogger(__name__)

DESCRIPTION = "linear probe on frozen pooled features (SGD, lr sweep on a hold-out of the training set): top-1 accuracy"

LRS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
MOMENTUM = 0.9
MILESTONES = (0.6, 0.8)
HOLD_OUT = 0.1


def protocol(epochs: int = 100, batch_size: int = 256, lrs: tuple[float, ...] = LRS, seed: int = 0) -> dict:
    """The resolved settings, for the result file."""
    return {
        "method": "linear probe on cached frozen features, no augmentation",
        "features": "standardised per dimension with the mean and standard deviation of the training set",
        "optimizer": "SGD",
        "momentum": MOMENTUM,
        "weight_decay": 0.0,
        "batch_size": batch_size,
        "epochs": epochs,
        "lr_schedule": "x0.1 at 60 % and 80 % of the epochs",
        "lrs": sorted(lrs),
        "lr_choice": f"best top-1 on a seeded {HOLD_OUT:.0%} of the training set, then refit on the whole training set",
        "init": "zero",
        "seed": seed,
        "metric": "top-1 accuracy, fraction",
    }


def check(
    train_count: int, epochs: int = 100, batch_size: int = 256, lrs: tuple[float, ...] = LRS, seed: int = 0
) -> None:
    """Refuse settings that cannot be followed with `train_count` training images. Raises BurnError."""
    if train_count < 10:
        raise BurnError(f"the linear probe needs at least 10 training images (10 % are held out), got {train_count}")
    if epochs < 1 or batch_size < 1:
        raise BurnError(f"epochs and batch_size must be positive, not {epochs} and {batch_size}")
    if not lrs or not all(0 < lr < float("inf") for lr in lrs):
        raise BurnError(f"lrs must be one or more positive learning rates, not {list(lrs)}")


@torch.no_grad()
def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    epochs: int = 100,
    batch_size: int = 256,
    lrs: tuple[float, ...] = LRS,
    seed: int = 0,
) -> dict:
    """Train a linear classifier on the features, choosing the learning rate without the test set; test it once.

    The sweep fits on 90 % of the training set, standardised with the statistics of that part, and scores on the other
    10 % (ties: the lower cross-entropy). The fit with the chosen rate uses the whole training set. It runs where
    `train_features` lies.

    Args:
        train_features: float [N, D].
        train_labels: int64 [N], >= 0.
        test_features: float [M, D].
        test_labels: int64 [M], >= 0.
        seed: of the hold-out and of the order of the images.

    Returns:
        dict of `value` (top-1 accuracy in [0, 1]), `top5` (the same for the five best classes; 1 if there are no more),
        `lr` (the chosen rate), `sweep` (dict(lr, accuracy, loss) per rate on the hold-out; loss None if it diverged).

    Raises:
        BurnError: fewer than ten training images, a setting that is not positive, or features that cannot be scored.
    """
    check_features(train_features, train_labels, test_features, test_labels)
    count = len(train_features)
    check(count, epochs, batch_size, lrs)
    device = train_features.device
    train_features, test_features = train_features.float(), test_features.to(device).float()
    train_labels, test_labels = train_labels.to(device), test_labels.to(device)
    classes = int(torch.maximum(train_labels.max(), test_labels.max())) + 1
    lrs = sorted(lrs)

    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=generator).to(device)
    held, rest = order[: round(HOLD_OUT * count)], order[round(HOLD_OUT * count) :]
    shift, scale = _statistics(train_features[rest])
    settings = (classes, epochs, batch_size, generator)
    heads = _fit((train_features[rest] - shift) / scale, train_labels[rest], lrs, *settings)
    sweep = []
    for lr, logits in zip(lrs, _logits((train_features[held] - shift) / scale, *heads), strict=True):
        loss = F.cross_entropy(logits, train_labels[held]).item()
        finite = bool(torch.isfinite(logits).all())
        accuracy = _topk(logits, train_labels[held], 1) if finite else 0.0
        sweep.append({"lr": lr, "accuracy": accuracy, "loss": loss if finite else None})
    converged = [row for row in sweep if row["loss"] is not None]
    if not converged:
        raise BurnError(f"the linear probe diverged at every learning rate of {lrs}: add smaller ones")
    best = max(converged, key=lambda row: (row["accuracy"], -row["loss"]))["lr"]
    if len(lrs) > 1 and best in (lrs[0], lrs[-1]):
        _logger.warning("the linear probe chose the learning rate at the end of its grid, %g of %s", best, lrs)

    shift, scale = _statistics(train_features)
    head = _fit((train_features - shift) / scale, train_labels, [best], *settings)
    logits = _logits((test_features - shift) / scale, *head)[0]
    if not torch.isfinite(logits).all():
        raise BurnError(f"the linear probe diverged on the whole training set at lr {best:g}: try smaller lrs")
    return {
        "value": _topk(logits, test_labels, 1),
        "top5": _topk(logits, test_labels, min(5, classes)),
        "lr": best,
        "sweep": sweep,
    }


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [D] over the images of [N, D]; 1 in place of the deviation of a constant feature."""
    deviation, mean = torch.std_mean(x, dim=0, correction=0)
    # A constant feature has a deviation of rounding errors, not of exactly zero.
    return mean, torch.where(deviation > 1e-6 * x.abs().amax(0), deviation, 1.0)


def _logits(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[N, D] through all heads at once, weight [D, L*C] and bias [L, C], to [L, N, C]."""
    return (x @ weight).unflatten(1, bias.shape).add_(bias).transpose(0, 1)


def _fit(
    x: Tensor, y: Tensor, lrs: list[float], classes: int, epochs: int, batch_size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Train one softmax head per learning rate, all on the same batches: weight [D, L*C], bias [L, C].

    The gradient of the mean cross-entropy in the logits is (softmax - one_hot) / B, so autograd is not needed; the step
    is torch.optim.SGD's: v <- momentum * v + g, w <- w - lr * v.
    """
    heads = len(lrs)
    weight = x.new_zeros(x.shape[1], heads * classes)
    bias = x.new_zeros(heads, classes)
    weight_velocity, bias_velocity = torch.zeros_like(weight), torch.zeros_like(bias)
    for epoch in range(epochs):
        drops = sum(epoch >= share * epochs for share in MILESTONES)
        rate = torch.tensor([lr * 0.1**drops for lr in lrs], device=x.device)[:, None].expand(heads, classes)
        weight_rate = rate.flatten()
        for index in torch.randperm(len(x), generator=generator).to(x.device).split(batch_size):
            batch = x[index]
            gradient = _logits(batch, weight, bias).softmax(-1)
            gradient[:, torch.arange(len(index), device=x.device), y[index]] -= 1
            gradient /= len(index)
            weight_velocity.mul_(MOMENTUM).addmm_(batch.T, gradient.transpose(0, 1).flatten(1))
            bias_velocity.mul_(MOMENTUM).add_(gradient.sum(1))
            weight.sub_(weight_velocity * weight_rate)
            bias.sub_(bias_velocity * rate)
    return weight, bias


def _topk(logits: Tensor, labels: Tensor, k: int) -> float:
    """Share of the rows of [N, C] whose label is among the k largest."""
    return (logits.topk(k, dim=1).indices == labels[:, None]).any(1).double().mean().item()


def run(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    epochs: int = 100,
    lrs: tuple[float, ...] = LRS,
    seed: int = 0,
) -> dict:
    """`linear_probe` in the signature common to EVALS: dict(value, top5, lr, sweep)."""
    return linear_probe(
        train_features, train_labels, test_features, test_labels, epochs=epochs, lrs=tuple(lrs), seed=seed
    )
