"""Linear evaluation after the published ImageNet protocol, and its relatives.

SGD with momentum 0.9, no weight decay, batches of 256, 100 epochs, learning rate x0.1 at 60 % and 80 % of them (He et
al., MoCo, https://arxiv.org/abs/1911.05722, and the BURN paper). With `--augment` the images are cropped and mirrored
anew in every epoch, as published; without it the features are extracted once and standardised. The learning rate is
chosen per network on held-out training images, because one rate does not suit features of different scale.
"""

import argparse
import functools
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BurnError
from . import logistic
from .features import check_features
from .probes import MOMENTUM, Batches, fit, make_bank, step_rates

_logger = logging.getLogger(__name__)

DESCRIPTION = "linear probe on frozen pooled features (SGD, lr sweep on a hold-out of the training set): top-1 accuracy"

LRS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
MILESTONES = (0.6, 0.8)
HOLD_OUT = 0.1
PROBES = ("linear", "mlp")


@dataclass(frozen=True)
class Settings:
    """Of one linear evaluation; the defaults are the published ones for ImageNet, on cached features."""

    classifier: str = "sgd"
    probe: str = "linear"
    augment: bool = False
    standardize: bool = True
    epochs: int = 100
    batch_size: int = 256
    lrs: tuple[float, ...] = LRS
    milestones: tuple[float, ...] = MILESTONES  # shares of the epochs
    weight_decay: float = 0.0
    penalties: tuple[float, ...] = logistic.PENALTIES
    seed: int = 0

    def check(self, train_count: int) -> None:
        """Refuse what cannot be followed with `train_count` training images. Raises BurnError."""
        if train_count < 10:
            raise BurnError(
                f"the linear probe needs at least 10 training images (10 % are held out), got {train_count}"
            )
        if self.epochs < 1 or self.batch_size < 1:
            raise BurnError(f"epochs and batch_size must be positive, not {self.epochs} and {self.batch_size}")
        if not self.lrs or not all(0 < lr < float("inf") for lr in self.lrs):
            raise BurnError(f"lrs must be one or more positive learning rates, not {list(self.lrs)}")
        if not 0 <= self.weight_decay < float("inf"):
            raise BurnError(f"--weight-decay must be at least 0, not {self.weight_decay}")
        if not all(0 < share <= 1 for share in self.milestones):
            raise BurnError(f"--milestones are shares of the epochs in (0, 1], not {list(self.milestones)}")
        if self.augment and self.standardize:
            raise BurnError("--augment and --standardize exclude each other: augmented features have no statistics")
        if self.classifier == "lbfgs" and (self.augment or self.probe != "linear"):
            raise BurnError("--classifier lbfgs fits a linear classifier on cached features: drop --augment, --probe")

    def protocol(self) -> dict:
        """In words, for the result file."""
        common = {
            "features": "standardised per dimension with the mean and standard deviation of the training set"
            if self.standardize else "as they are",
            "seed": self.seed,
            "metric": "top-1 accuracy, fraction",
        }
        if self.classifier == "lbfgs":
            return {**logistic.protocol(self.penalties, HOLD_OUT), **common}
        heads = {"linear": "linear classifier", "mlp": "hidden layer as wide as the features, ReLU, linear classifier"}
        steps = " and ".join(f"{share:.4g}" for share in self.milestones)
        return {
            "method": f"{self.probe} probe on " + (
                "features of augmented views, backbone frozen, eval-mode BatchNorm" if self.augment
                else "cached frozen features, no augmentation"
            ),
            "probe": heads[self.probe],
            "views": "random resized crop (0.08 to 1, bicubic), mirror image" if self.augment else "centre crop",
            "optimizer": "SGD",
            "momentum": MOMENTUM,
            "weight_decay": self.weight_decay,
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "lr_schedule": f"x0.1 at {steps} of the epochs" if steps else "constant",
            "lrs": sorted(self.lrs),
            "lr_choice": f"best top-1 on a seeded {HOLD_OUT:.0%} of the training set, then refit on the whole training "
            "set" if len(self.lrs) > 1 else "given",
            "init": "zero" if self.probe == "linear" else "torch's, seeded",
            **common,
        }


def check(train_count: int, **settings) -> None:
    Settings(**settings).check(train_count)


def protocol(**settings) -> dict:
    return Settings(**settings).protocol()


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--classifier", choices=("sgd", "lbfgs"), help="lbfgs: logistic regression, 45 penalties (default: sgd)")
    add("--probe", choices=PROBES, help="mlp: a hidden layer before the classifier (default: linear)")
    add("--augment", action=argparse.BooleanOptionalAction, default=None,
        help="as published: crops and mirror images anew in every epoch, slow (default: cached features)")
    add("--standardize", action=argparse.BooleanOptionalAction, default=None,
        help="features to mean 0 and deviation 1 (default: yes, but not with --augment)")
    add("--epochs", type=int, help="(default: 100)")
    add("--sgd-batch-size", type=int, dest="sgd_batch_size", metavar="N", help="images per SGD step (default: 256)")
    add("--lrs", type=float, nargs="+", metavar="LR", help="the sweep; one: no sweep (default: decades)")
    add("--milestones", type=float, nargs="*", metavar="SHARE",
        help="shares of the epochs after which the rate falls to a tenth (default: 0.6 0.8)")
    add("--weight-decay", type=float, help="(default: 0)")


def options(args: argparse.Namespace, **defaults) -> dict:
    """`defaults`, what was given instead of them, and what follows from both."""
    given = {name: getattr(args, name) for name in
             ("classifier", "probe", "augment", "standardize", "epochs", "lrs", "milestones", "weight_decay", "seed")}
    given["batch_size"] = args.sgd_batch_size
    settings = {**defaults, **{name: value for name, value in given.items() if value is not None}}
    for name in ("lrs", "milestones"):
        if name in settings:
            settings[name] = tuple(settings[name])
    settings.setdefault("augment", False)
    settings.setdefault("standardize", not settings["augment"])
    return settings


@torch.no_grad()
def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    **settings,
) -> dict:
    """Train a classifier on cached features, choosing the learning rate without the test set; test it once.

    The sweep fits on 90 % of the training set, standardised with the statistics of that part, and scores on the other
    10 % (ties: the lower cross-entropy). The fit with the chosen rate uses the whole training set. It runs where
    `train_features` lies. With a single rate there is nothing to choose, and `sweep` is empty.

    Args:
        train_features: float [N, D].
        train_labels: int64 [N], >= 0.
        test_features: float [M, D].
        test_labels: int64 [M], >= 0.
        settings: of `Settings`; `seed` is that of the hold-out, of the order of the images and of the MLP.

    Returns:
        dict of `value` (top-1 accuracy in [0, 1]), `top5` (the same for the five best classes; 1 if there are no more),
        `lr` (the chosen rate), `sweep` (dict(lr, accuracy, loss) per rate on the hold-out; loss None if it diverged).

    Raises:
        BurnError: fewer than ten training images, a setting that is not positive, or features that cannot be scored.
    """
    check_features(train_features, train_labels, test_features, test_labels)
    count = len(train_features)
    settings = Settings(**settings)
    settings.check(count)
    device = train_features.device
    train_features, test_features = train_features.float(), test_features.to(device).float()
    train_labels, test_labels = train_labels.to(device), test_labels.to(device)
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(count, generator=generator).to(device)
    held, rest = order[: round(HOLD_OUT * count)], order[round(HOLD_OUT * count) :]

    def part(index: Tensor | slice, *others: Tensor) -> tuple[Iterable[Batches], list[Tensor]]:
        """Epochs of batches of the training images at `index`, and other features treated as they are."""
        x, y = train_features[index], train_labels[index]
        shift, scale = _statistics(x) if settings.standardize else (0.0, 1.0)
        x = (x - shift) / scale

        def batches() -> Batches:
            for chosen in torch.randperm(len(x), generator=generator).to(device).split(settings.batch_size):
                yield x[chosen], y[chosen]

        return (batches() for _ in range(settings.epochs)), [(other - shift) / scale for other in others]

    classes = int(torch.maximum(train_labels.max(), test_labels.max())) + 1
    return choose_and_test(
        part, rest, (train_features[held], train_labels[held]), (test_features, test_labels), classes, settings
    )


def choose_and_test(
    part: Callable[..., tuple[Iterable[Batches], list[Tensor]]], rest, held: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor], classes: int, settings: Settings,
) -> dict:
    """Fit on `part(rest)`, score on `held`, refit on `part(slice(None))` at the best rate, score on `test`.

    `part(which, *features)` gives the epochs of batches of some of the training images, and the other features treated
    as theirs are.
    """
    lrs = sorted(settings.lrs)
    bank_of = functools.partial(
        make_bank, settings.probe, test[0].shape[1], classes, weight_decay=settings.weight_decay, seed=settings.seed,
        device=test[0].device,
    )
    best, sweep = lrs[0], []
    if len(lrs) > 1:
        bank = bank_of(len(lrs))
        train, (held_features,) = part(rest, held[0])
        fit(bank, train, step_rates(lrs, settings.epochs, settings.milestones))
        sweep = _scores(lrs, bank.logits(held_features), held[1])
        converged = [row for row in sweep if row["loss"] is not None]
        if not converged:
            raise BurnError(f"the linear probe diverged at every learning rate of {lrs}: add smaller ones")
        best = max(converged, key=lambda row: (row["accuracy"], -row["loss"]))["lr"]
        if best in (lrs[0], lrs[-1]):
            _logger.warning("the linear probe chose the learning rate at the end of its grid, %g of %s", best, lrs)
    bank = bank_of(1)
    train, (test_features,) = part(slice(None), test[0])
    fit(bank, train, step_rates([best], settings.epochs, settings.milestones))
    logits = bank.logits(test_features)[0]
    if not torch.isfinite(logits).all():
        where = f"on the whole training set at lr {best:g}" if sweep else f"at every learning rate of {lrs}"
        raise BurnError(f"the linear probe diverged {where}: add smaller ones")
    return {
        "value": topk_accuracy(logits, test[1], 1),
        "top5": topk_accuracy(logits, test[1], min(5, classes)),
        "lr": best,
        "sweep": sweep,
    }


def _scores(lrs: list[float], logits: Tensor, labels: Tensor) -> list[dict]:
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


def topk_accuracy(logits: Tensor, labels: Tensor, k: int) -> float:
    """Share of the rows of [N, C] whose label is among the k largest."""
    return (logits.topk(k, dim=1).indices == labels[:, None]).any(1).double().mean().item()


def run(train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor, **settings) -> dict:
    """Logistic regression or `linear_probe` in the signature common to EVALS: dict(value, top5, and how it was chosen).

    Views that are augmented need images: `augmented.py`.
    """
    features = train_features, train_labels, test_features, test_labels
    settings["lrs"] = tuple(settings.get("lrs", LRS))
    settings = Settings(**settings)
    if settings.classifier == "lbfgs":
        check_features(*features)
        settings.check(len(train_features))
        return logistic.logistic_regression(
            *features, penalties=settings.penalties, hold_out=HOLD_OUT, standardize=settings.standardize,
            seed=settings.seed,
        )
    return linear_probe(*features, **asdict(settings))
