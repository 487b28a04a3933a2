"""Linear SVMs on frozen features, one for each class against the rest: all images, and a few of them.

The protocol for VOC07 of Goyal et al. (ICCV 2019, https://arxiv.org/abs/1905.01235), which Table 3 of the BURN paper
follows, for VOC07 and for any other set: the last feature maps pooled to 2 x 2 places, the cost of each class chosen by
cross-validation; low-shot, k positive and 19 k negative images a class are drawn five times.

Labels are classes [N], or a matrix [N, C] where an image may show several: 1, -1, and 0 for a class whose objects in
the image are all "difficult". As in the authors' scripts, such an image is a negative one when a class is trained on
all images, is drawn neither as positive nor as negative, and is left out when that class is tested.
"""

import argparse
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from tqdm import tqdm

from ..arguments import above_zero, positive
from ..data import ImageSource
from ..errors import BurnError
from .features import check_features, eval_mode

if TYPE_CHECKING:
    from sklearn.svm import LinearSVC

DESCRIPTION = "one-against-rest linear SVMs on frozen features, full and low-shot: mean average precision"

COSTS = (1.0, 10.0, 100.0, *(0.5**power for power in range(4, 20)))
SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)
NEGATIVES = 19  # for each positive image
FOLDS = 3
POOLS = ("1x1", "2x2")


@dataclass(frozen=True)
class Settings:
    """Settings of one evaluation by SVMs; the defaults are the published ones."""

    shots: tuple[int, ...] = SHOTS
    draws: int = 5
    costs: tuple[float, ...] = COSTS
    full: bool = True
    seed: int = 0
    multi_label: bool = False  # labels are matrices, [N, C]
    squash: bool = True  # images go through `voc07_transform`
    pool: str = "2x2"

    def __post_init__(self):
        if not self.full and not self.shots:
            raise BurnError("--no-full and no --shots leave nothing to do")

    def protocol(self) -> dict:
        """In words, for the result file."""
        several = {
            "labels": "several classes an image; classes without a positive image in either set are left out",
            "difficult": "negative when trained on all images; never drawn in low-shot; left out of the test of that "
            "class",
        }
        return {
            "method": "LinearSVC (liblinear), one against rest, squared hinge, L2, at most 2,000 iterations",
            "class_weight": {"positive": 2, "negative": 1},
            "features": "L2-normalised",
            "pool": self.pool,
            **(several if self.multi_label else {}),
            "costs": sorted(self.costs),
            "full": f"cost of each class by {FOLDS}-fold cross-validation (average precision)" if self.full
            else "left out",
            "shots": sorted(self.shots),
            "low_shot": f"{self.draws} seeded draws of k positive and {NEGATIVES} k negative training images a class; "
            "the cost with the best mean over the draws, as published: chosen on the test images",
            "metric": "mean over classes of the average precision (area under the monotone envelope), fraction",
            "seed": self.seed,
        }


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--shots", type=positive, nargs="*", default=SHOTS, metavar="K", help="images a class of low-shot")
    add("--draws", type=positive, default=5, help="random training sets of each size")
    add("--costs", type=above_zero, nargs="+", default=COSTS, metavar="C",
        help="of the SVMs, to choose from (default: 19 values)")
    add("--no-full", action="store_true", help="leave out the SVMs on all images")
    add("--squash", action=argparse.BooleanOptionalAction, default=None,
        help="the published transform: the whole image squashed into the square (default: for voc07 only)")
    add("--pool", choices=POOLS, help="places that the last feature maps are pooled to; 2x2: as published, four times "
        "as many features (default: 2x2 for voc07, else 1x1)")


def settings(args: argparse.Namespace, train: ImageSource) -> Settings:
    """The options, and for sets with several labels an image the published transform and pooling.

    Raises BurnError for 2 x 2 places of what gives pooled features only, and for --crop-pct and --interpolation where
    the published transform has neither.
    """
    published = train.multi_label
    pool = args.pool or ("2x2" if published else "1x1")
    if pool == "2x2" and (args.pixels or args.engine != "torch"):
        raise BurnError("--pool 2x2 needs the feature maps of a network in torch: leave --pixels and --engine out, or "
                        "add --pool 1x1")
    squash = published if args.squash is None else args.squash
    if squash and (args.crop_pct or args.interpolation):
        raise BurnError("--crop-pct, --interpolation: the published transform crops nothing away and is bilinear; "
                        "leave them out, or add --no-squash")
    return Settings(
        tuple(args.shots), args.draws, tuple(args.costs), not args.no_full, args.seed, published, squash, pool,
    )


class FourPlaces(nn.Module):
    """A timm model's last feature maps [B, C, H, W], pooled to 2 x 2 places: features [B, 4 C].

    As in VISSL and OpenSelfSup: the means over the four windows of (H - 1) x (W - 1), so 6 x 6 windows of 7 x 7 maps.
    """

    def __init__(self, model: nn.Module, input_size: Sequence[int]):
        """Raises BurnError where images [B, *input_size] give no such maps, or maps of a single row or column."""
        super().__init__()
        self.model = model
        with eval_mode(model), torch.no_grad():
            maps = model.forward_features(torch.zeros(1, *input_size, device=next(model.parameters()).device))
        if maps.ndim != 4 or maps.shape[1] != model.num_features or min(maps.shape[2:]) < 2:
            raise BurnError(
                f"--pool 2x2 needs feature maps [B, {model.num_features}, H, W] of at least 2 x 2; the model gives "
                f"{[*maps.shape]}: take a larger --img-size, or --pool 1x1"
            )

    def forward(self, images: Tensor) -> Tensor:
        maps = self.model.forward_features(images)
        return F.avg_pool2d(maps, (maps.shape[2] - 1, maps.shape[3] - 1), stride=1).flatten(1)


def voc07_transform(config: dict) -> tuple[Callable, dict]:
    """The published transform (PIL image -> float32 [3, S, S]), and in words what it does, for the result file.

    `Resize(256)`, the shorter side, then `Resize((224, 224))`, which squashes the whole image into the square;
    bilinear, nothing is cropped away. So it stands in the VOC07 configurations of OpenSelfSup and VISSL.

    Args:
        config: timm's data config. Its `input_size` is S (at other sizes than 224 the first step is in proportion), its
            `mean` and `std` normalise; interpolation and cropping are not followed.
    """
    side = config["input_size"][-1]
    shorter = round(side * 256 / 224)
    transform = transforms.Compose([
        transforms.Resize(shorter, InterpolationMode.BILINEAR),
        transforms.Resize((side, side), InterpolationMode.BILINEAR),
        transforms.ToTensor(),
        transforms.Normalize(config["mean"], config["std"]),
    ])
    return transform, {
        "resize_shorter_side": shorter, "squash_to": [side, side], "interpolation": "bilinear",
        "mean": list(config["mean"]), "std": list(config["std"]),
    }


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the precision-recall curve's monotone envelope (VOC from 2010 on), in [0, 1].

    Args:
        scores: float [M], higher is more positive; of equal ones the earlier image comes first.
        positive: bool [M], at least one of them true.
    """
    hits = positive[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[hits].mean())


def draw(labels: np.ndarray, target: int, k: int, rng: np.random.Generator) -> np.ndarray | None:
    """Indices of k images of class `target` and 19 k others, sorted; None where the set has too few.

    `labels` is int [N], or [N, C] of 1, 0 and -1: an image whose label for `target` is 0 is neither of both.
    """
    marks = _marks(labels, target)
    positive, negative = np.flatnonzero(marks == 1), np.flatnonzero(marks == -1)
    if len(positive) < k or len(negative) < NEGATIVES * k:
        return None
    chosen = [rng.choice(positive, k, replace=False), rng.choice(negative, NEGATIVES * k, replace=False)]
    return np.sort(np.concatenate(chosen))


def run(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor,
    settings: Settings = Settings(),
) -> dict:
    """Mean average precision over the classes of the training set that the test set has.

    Args:
        train_features, test_features: float [N, D], [M, D]; need not be normalised.
        train_labels, test_labels: int64 [N], [M], >= 0; with `multi_label`, any integer type [N, C], [M, C], of 1, 0
            ("difficult") and -1.

    Returns:
        `value`: the full figure, without it the one of the largest k that the set can supply; `full` (None if left out)
        and `low_shot`: {k: {"mean", "std" (over draws, n), "draws", "cost"}}, "n/a" in place of a figure for which
        a class has too few images; `full_lacks`: where `full` is "n/a", which class that is. With `multi_label` also
        `classes`: the columns that the figures are the mean over.

    Raises:
        BurnError: the sets do not fit each other, or no figure can be computed.
    """
    from sklearn.exceptions import ConvergenceWarning  # here, because it takes a second or two to import
    from sklearn.preprocessing import normalize

    check_features(train_features, train_labels, test_features, test_labels, settings.multi_label)
    x, z = (normalize(part.double().cpu().numpy()) for part in (train_features, test_features))
    y, t = train_labels.cpu().numpy(), test_labels.cpu().numpy()
    known = range(y.shape[1]) if settings.multi_label else np.unique(y).tolist()
    classes = [c for c in known if all((_marks(labels, c) == 1).any() for labels in (y, t))]
    if len(classes) < 2:
        raise BurnError("the SVMs need at least two classes that training and test images share")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the published limit of iterations is low
        low_shot = {str(k): _low_shot(x, y, z, t, classes, k, settings) for k in sorted(settings.shots)}
        lacks = _lacking(y, classes) if settings.full else None
        full = "n/a" if lacks else _full(x, y, z, t, classes, settings) if settings.full else None
    outcome = {"value": _headline(full, low_shot, lacks), "full": full, "low_shot": low_shot}
    outcome |= {"full_lacks": lacks} if lacks else {}
    return outcome | ({"classes": classes} if settings.multi_label else {})


def _headline(full: float | str | None, low_shot: dict, lacks: str | None) -> float:
    """The full figure, else that of the largest k. Raises BurnError where the set can supply neither."""
    found = [entry["mean"] for entry in low_shot.values() if entry != "n/a"]
    if isinstance(full, float) or found:
        return full if isinstance(full, float) else found[-1]
    few = [f"all images: {lacks}"] if lacks else []
    few += [f"--shots {k}: not every class has {k} positive and {NEGATIVES * int(k)} negative ones"
            for k in list(low_shot)[:1]]
    raise BurnError(f"too few training images; {'; '.join(few)}")


def _marks(labels: np.ndarray, c: int) -> np.ndarray:
    """int [N]: 1 where an image is of class c, -1 where it is not, 0 where it is neither ("difficult")."""
    return labels[:, c] if labels.ndim == 2 else np.where(labels == c, 1, -1)


def _lacking(y: np.ndarray, classes: list[int]) -> str | None:
    """Which class has too few images for the cross-validation, in words; None where all have enough."""
    for c in classes:
        positive = int((_marks(y, c) == 1).sum())
        for count, kind in ((positive, ""), (len(y) - positive, "other ")):
            if count < FOLDS:
                return f"class {c} has {count} {kind}training images, {FOLDS} are needed"
    return None


def _full(x, y, z, t, classes: list[int], settings: Settings) -> float:
    """Mean over the classes of the average precision of an SVM on all images, at the cost that cross-validates best."""
    from sklearn.model_selection import cross_val_score

    figures, costs = [], sorted(settings.costs)
    for c in tqdm(classes, desc="SVM, all images", unit=" classes", disable=None):
        positives = _marks(y, c) == 1
        scores = [
            cross_val_score(_svm(cost, settings.seed), x, positives, cv=FOLDS, scoring="average_precision").mean()
            for cost in costs
        ]
        best = costs[int(np.argmax(scores))]
        figures.append(_tested(_svm(best, settings.seed).fit(x, positives), z, _marks(t, c)))
    return float(np.mean(figures))


def _low_shot(x, y, z, t, classes: list[int], k: int, settings: Settings) -> dict | str:
    """Mean average precision of each draw at the cost whose mean over the draws is best."""
    draws, costs = settings.draws, sorted(settings.costs)
    table = np.zeros((draws, len(costs)))
    for number in tqdm(range(draws), desc=f"SVM, k = {k}", unit=" draws", leave=False, disable=None):
        rng = np.random.default_rng([settings.seed, k, number])
        for c in classes:
            chosen = draw(y, c, k, rng)
            if chosen is None:
                return "n/a"
            for column, cost in enumerate(costs):
                fitted = _svm(cost, settings.seed).fit(x[chosen], _marks(y[chosen], c) == 1)
                table[number, column] += _tested(fitted, z, _marks(t, c)) / len(classes)
    best = int(np.argmax(table.mean(0)))
    values = table[:, best]
    return {
        "mean": float(values.mean()), "std": float(values.std()),  # n, not n - 1, as published
        "draws": values.tolist(), "cost": costs[best],
    }


def _tested(fitted: "LinearSVC", z: np.ndarray, marks: np.ndarray) -> float:
    """Average precision over the images that are not "difficult"."""
    clear = marks != 0
    return average_precision(fitted.decision_function(z)[clear], marks[clear] == 1)


def _svm(cost: float, seed: int) -> "LinearSVC":
    from sklearn.svm import LinearSVC

    return LinearSVC(
        C=cost, class_weight={True: 2, False: 1}, penalty="l2", loss="squared_hinge", dual=True, tol=1e-4,
        max_iter=2000, random_state=seed,
    )
