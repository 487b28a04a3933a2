"""Linear evaluation after the published ImageNet protocol, and its relatives.

SGD with momentum 0.9, no weight decay, batches of 256, 100 epochs, learning rate x0.1 at 60 % and 80 % of them (He et
al., MoCo, https://arxiv.org/abs/1911.05722, and the BURN paper). With `--augment` the images are cropped and mirrored
anew in every epoch, as published (`augmented.py`); without it the features are extracted once and standardised. The
learning rate is chosen per network on held-out training images, because one rate does not suit features of different
scale.
"""

import argparse
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments import above_zero, file_ending, not_negative, number, positive
from ..data import ImageSource, mirror_probability
from ..errors import BurnError
from . import logistic
from .features import check_features
from .heads import (
    LAST_BATCH,
    MOMENTUM,
    Batches,
    Heads,
    LinearHeads,
    MLPHeads,
    fit,
    step_lrs,
    test_figures,
    topk_accuracy,
)
from .inputs import HOLD_OUT, require_numbers

_logger = logging.getLogger(__name__)

DESCRIPTION = "linear probe on frozen pooled features (SGD, lr sweep on a hold-out of the training set): top-1 accuracy"

LEAST_IMAGES = 10  # of which one is held out

# `train_on(part)`: the epochs of batches of some training images, and a function that standardises other features with
# the statistics of these.
TrainOn = Callable[..., tuple[Iterable[Batches], Callable[[Tensor], Tensor]]]


@dataclass(frozen=True)
class Settings:
    """Settings of one linear evaluation; the defaults are the published ones for ImageNet, on cached features."""

    classifier: str = "sgd"
    probe: str = "linear"
    augment: bool = False
    epochs: int = 100
    sgd_batch_size: int = 256
    lrs: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    milestones: tuple[float, ...] = (0.6, 0.8)  # shares of the epochs
    weight_decay: float = 0.0
    mirror_probability: float = 0.5  # of augmented views
    seed: int = 0

    def protocol(self) -> dict:
        """In words, for the result file."""
        common = {
            "features": "as they are" if self.augment
            else "standardised per dimension with the mean and standard deviation of the training set",
            "seed": self.seed,
            "metric": "top-1 accuracy, fraction",
        }
        if self.classifier == "lbfgs":
            return {**logistic.protocol(), **common}
        heads = {"linear": "linear classifier", "mlp": "hidden layer as wide as the features, ReLU, linear classifier"}
        steps = " and ".join(f"{share:.4g}" for share in self.milestones)
        crops = f"random resized crop (0.08 to 1, bilinear), mirror image with probability {self.mirror_probability:g}"
        return {
            "method": f"{self.probe} probe on " + (
                "features of augmented views, backbone frozen, eval-mode BatchNorm" if self.augment
                else "cached frozen features, no augmentation"
            ),
            "probe": heads[self.probe],
            "views": crops if self.augment else "centre crop",
            "optimizer": "SGD",
            "momentum": MOMENTUM,
            "weight_decay": self.weight_decay,
            "batch_size": self.sgd_batch_size,
            **({"last_batch": LAST_BATCH} if self.augment else {}),  # results of before left it out
            "epochs": self.epochs,
            "lr_schedule": f"x0.1 at {steps} of the epochs" if steps else "constant",
            "lrs": sorted(self.lrs),
            "lr_choice": f"best top-1 on a seeded {HOLD_OUT:.0%} of the training set, then refit on the whole training "
            "set" if len(self.lrs) > 1 else "given",
            "init": "zero" if self.probe == "linear" else "torch's, seeded",
            **common,
        }


def add_options(parser: argparse.ArgumentParser, epochs: str = "100", weight_decay: str = "0") -> None:
    """`epochs` and `weight_decay` are the defaults in words."""
    add = parser.add_argument
    add("--classifier", choices=("sgd", "lbfgs"), help="lbfgs: logistic regression, 45 penalties (default: sgd)")
    add("--probe", choices=("linear", "mlp"), help="mlp: a hidden layer before the classifier (default: linear)")
    add("--augment", action=argparse.BooleanOptionalAction, default=None,
        help="as published: crops and mirror images anew in every epoch, slow (default: cached features)")
    add("--epochs", type=positive, help=f"default: {epochs}")
    add("--sgd-batch-size", type=positive, metavar="N", help="images per SGD step (default: 256)")
    add("--lrs", type=above_zero, nargs="+", metavar="LR", help="rates to choose from (default: 1e-4, 1e-3, ... 1)")
    add("--milestones", type=number(above=0, most=1), nargs="*", metavar="SHARE",
        help="shares of the epochs after which the rate falls to a tenth (default: 0.6 0.8)")
    add("--weight-decay", type=not_negative, help=f"default: {weight_decay}")
    add("--confusion", type=file_ending(".png"), metavar="FILE.png", help="draw which classes were taken for which")


def settings(args: argparse.Namespace, train: ImageSource, **defaults) -> Settings:
    """`defaults`, and the options that were given instead of them. Raises BurnError where these contradict."""
    given = {field.name: getattr(args, field.name, None) for field in fields(Settings)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    defaults["mirror_probability"] = mirror_probability(args.dataset)
    chosen = {**defaults, **{name: value for name, value in given.items() if value is not None}}
    if chosen.get("classifier") == "lbfgs":
        if of_sgd := [name for name, value in given.items() if value and name not in ("classifier", "seed")]:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in of_sgd)
            raise BurnError(f"--classifier lbfgs fits a linear classifier on cached features: leave out {options}")
    if chosen.get("augment"):
        require_numbers(train, "--augment")
    return Settings(**chosen)


def run(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor,
    settings: Settings = Settings(),
) -> dict:
    """`linear_probe`, or logistic regression where the settings ask for it, on cached features."""
    features = train_features, train_labels, test_features, test_labels
    if settings.classifier == "sgd":
        return linear_probe(*features, settings)
    check_features(*features)
    require_images(len(train_features))
    return logistic.logistic_regression(*features, seed=settings.seed)


@torch.no_grad()
def linear_probe(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor,
    settings: Settings = Settings(),
) -> dict:
    """Train a classifier on cached features, choosing the learning rate without the test set; test it once.

    The sweep fits on 90 % of the training set, standardised with the statistics of that part, and scores on the other
    10 % (ties: the lower cross-entropy). The fit with the chosen rate uses the whole training set. It runs where
    `train_features` lies. With a single rate there is nothing to choose, and `sweep` is empty.

    Returns:
        `test_figures`, `lr` (the chosen rate) and `sweep` (dict(lr, accuracy, loss) per rate on the hold-out; loss None
        if it diverged).

    Raises:
        BurnError: fewer than ten training images, features that cannot be scored, or no rate that converges.
    """
    check_features(train_features, train_labels, test_features, test_labels)
    count, device = len(train_features), train_features.device
    require_images(count)
    train_features, test_features = train_features.float(), test_features.to(device).float()
    train_labels, test_labels = train_labels.to(device), test_labels.to(device)
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(count, generator=generator).to(device)
    held_out, rest = order[: round(HOLD_OUT * count)], order[round(HOLD_OUT * count) :]

    def train_on(part: Tensor | slice) -> tuple[Iterable[Batches], Callable[[Tensor], Tensor]]:
        x, y = train_features[part], train_labels[part]
        shift, scale = _statistics(x)
        x = (x - shift) / scale

        def epoch() -> Batches:
            for chosen in torch.randperm(len(x), generator=generator).to(device).split(settings.sgd_batch_size):
                yield x[chosen], y[chosen]

        return (epoch() for _ in range(settings.epochs)), lambda features: (features - shift) / scale

    classes = int(torch.maximum(train_labels.max(), test_labels.max())) + 1
    return choose_and_test(
        train_on, rest, (train_features[held_out], train_labels[held_out]), (test_features, test_labels), classes,
        settings,
    )


def choose_and_test(
    train_on: TrainOn, rest, held_out: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int,
    settings: Settings,
) -> dict:
    """Fit at every learning rate on the part `rest`, score on `held_out`; refit at the best on all images, score on
    `test`. `held_out` and `test` are features and labels. Returns what `linear_probe` does."""
    lrs = sorted(settings.lrs)
    dim, device = test[0].shape[1], test[0].device

    def fitted(part, lrs: list[float], features: Tensor) -> Tensor:
        """Logits [L, N, C] of `features` after training on `part`, one head for each learning rate."""
        heads = _new_heads(settings, dim, classes, len(lrs), device)
        epochs, standardized = train_on(part)
        fit(heads, epochs, step_lrs(lrs, settings.epochs, settings.milestones))
        return heads.logits(standardized(features))

    best, sweep = lrs[0], []
    if len(lrs) > 1:
        sweep = _scores(lrs, fitted(rest, lrs, held_out[0]), held_out[1])
        converged = [row for row in sweep if row["loss"] is not None]
        if not converged:
            raise BurnError(f"the linear probe diverged at every learning rate of {lrs}: add smaller ones")
        best = max(converged, key=lambda row: (row["accuracy"], -row["loss"]))["lr"]
        if best in (lrs[0], lrs[-1]):
            _logger.warning("the linear probe chose the learning rate at the end of its grid, %g of %s", best, lrs)
    logits = fitted(slice(None), [best], test[0])[0]
    if not torch.isfinite(logits).all():
        where = f"on the whole training set at lr {best:g}" if sweep else f"at every learning rate of {lrs}"
        raise BurnError(f"the linear probe diverged {where}: add smaller ones")
    return {**test_figures(logits, test[1]), "lr": best, "sweep": sweep}


def require_images(count: int) -> None:
    """Raise BurnError where so few training images leave none to hold out."""
    if count < LEAST_IMAGES:
        raise BurnError(f"a probe needs at least {LEAST_IMAGES} training images (10 % are held out), got {count}")


def _new_heads(settings: Settings, dim: int, classes: int, heads: int, device: torch.device) -> Heads:
    if settings.probe == "mlp":
        return MLPHeads(dim, classes, heads, settings.weight_decay, device, settings.seed)
    return LinearHeads(dim, classes, heads, settings.weight_decay, device)


def _scores(lrs: list[float], logits: Tensor, labels: Tensor) -> list[dict]:
    """The sweep: one row for each learning rate, from logits [L, N, C]."""
    rows = []
    for lr, of_head in zip(lrs, logits, strict=True):
        loss = F.cross_entropy(of_head, labels).item()
        finite = bool(torch.isfinite(of_head).all())
        accuracy = topk_accuracy(of_head, labels, 1) if finite else 0.0
        rows.append({"lr": lr, "accuracy": accuracy, "loss": loss if finite else None})
    return rows


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [D] over the images of [N, D]; 1 in place of the deviation of a constant feature."""
    deviation, mean = torch.std_mean(x, dim=0, correction=0)
    # A constant feature has a deviation of rounding errors, not of exactly zero.
    return mean, torch.where(deviation > 1e-6 * x.abs().amax(0), deviation, 1.0)
