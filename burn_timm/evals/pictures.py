"""Pictures of what features know: test images with their nearest training images, and the confusion of classes."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data import ImageSource
from ..drawing import picture
from ..errors import BurnError
from .knn import nearest

RIGHT, WRONG, UNKNOWN = "#0072B2", "#D55E00", "0.6"  # blue and orange, which colour-blind people can tell apart
MOST_CLASSES, MOST_WITH_NUMBERS = 40, 20  # of a confusion matrix
_SIDE = 192  # pixels at most of a drawn image


def draw_neighbours(
    path: str | Path, train: ImageSource, test: ImageSource, features: Mapping[str, tuple[Tensor, Tensor]],
    images: int = 8, neighbours: int = 8, seed: int = 0,
) -> dict[str, Tensor]:
    """Draw some test images, each with its nearest training images by cosine similarity, nearest first.

    The test images are a seeded choice, from as many classes as there are. Each has one row for each set of features.
    Where there are labels, a blue frame marks a neighbour of the same class, an orange one of another.

    Args:
        path: of the PNG.
        train, test: the images, with classes numbered alike (`burn_timm.data.align`).
        features: name of a set, such as `pixels` or `trained` -> features of all `train` and of all `test` images,
            float [N, D] and [M, D], in their order.

    Returns:
        For each set the numbers of the drawn training images, int64 [images, neighbours].

    Raises:
        BurnError: features and images differ in number.
    """
    for source, which in ((train, 0), (test, 1)):
        for name, both in features.items():
            if len(both[which]) != len(source):
                raise BurnError(f"{source.description}: {len(both[which])} images have features ({name})")
    labelled = train.labelled and test.labelled
    chosen = _choose(test, min(images, len(test)), seed)
    count = min(neighbours, len(train))
    found = {name: nearest(of_train, of_test[chosen].to(of_train.device), count).cpu()
             for name, (of_train, of_test) in features.items()}
    known = train.labels() if labelled else None

    height = 1.3 * len(chosen) * len(found) + 0.8
    with picture(path, 1.15 * (count + 1) + 0.7, height, layout=None) as figure:  # placing by itself takes seconds
        axes = figure.subplots(len(chosen) * len(found), count + 1, squeeze=False, width_ratios=[1.6, *[1] * count])
        figure.subplots_adjust(left=0.01, right=0.99, bottom=0.1 / height, top=1 - 0.8 / height, wspace=0.08)
        for row, (index, name) in zip(axes, itertools.product(range(len(chosen)), found), strict=True):
            image, label = test.load(chosen[index])
            row[0].set_anchor("W")
            if name == next(iter(found)):
                _show(row[0], image, _class_name(test, label) if labelled else "", "black")
            else:
                row[0].axis("off")
            numbers = found[name][index].tolist()
            for axis, number in zip(row[1:], numbers, strict=True):
                colour = UNKNOWN if known is None else RIGHT if known[number] == label else WRONG
                _show(axis, train.load(number)[0], _class_name(train, known[number]) if labelled else "", colour)
            right = f"{sum(known[number] == label for number in numbers)} of {count} right" if labelled else ""
            row[1].set_ylabel("\n".join(filter(None, [name if len(found) > 1 else "", right])), fontsize=9)
        figure.suptitle(
            "Left: test images. Right: their nearest training images, nearest first."
            + ("\nBlue frame: same class. Orange frame: another class." if labelled else ""),
            fontsize=11, y=1 - 0.1 / height, va="top",
        )
    return found


def _choose(test: ImageSource, count: int, seed: int) -> list[int]:
    """A seeded choice of images: the first of each class in a random order, then the next of each, and so on."""
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed)).tolist()
    if not test.labelled:
        return order[:count]
    labels, seen, rounds = test.labels(), {}, []
    for index in order:
        seen[labels[index]] = seen.get(labels[index], 0) + 1
        rounds.append(seen[labels[index]])
    return [index for _, index in sorted(zip(rounds, order, strict=True), key=lambda pair: pair[0])][:count]


def draw_confusion(
    path: str | Path, labels: Tensor, predicted: Tensor, class_names: Sequence[str] | None = None,
) -> Tensor:
    """Draw how often images of each class (rows, adding up to 100 %) were taken for each class (columns).

    Of more than 40 classes, those with the most mistakes are drawn; the title says so.

    Args:
        path: of the PNG.
        labels, predicted: int64 [M], the classes of the test images.
        class_names: a name for each class; default: their numbers.

    Returns:
        The whole matrix of counts, int64 [C, C]: images of class i that were taken for class j.
    """
    labels, predicted = labels.cpu(), predicted.cpu()
    classes = max(int(torch.maximum(labels.max(), predicted.max())) + 1, len(class_names or ()))
    counts = torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)
    names = list(class_names or map(str, range(classes)))
    mistakes = counts.sum(1) + counts.sum(0) - 2 * counts.diagonal()
    shown = mistakes.argsort(descending=True, stable=True)[:MOST_CLASSES].sort().values
    shares = (100 * counts / counts.sum(1, keepdim=True).clamp(min=1))[shown][:, shown].numpy()

    side = 2.6 + (0.42 if len(shown) <= MOST_WITH_NUMBERS else 0.25) * max(len(shown), 4)
    with picture(path, side + 0.8, side) as figure:
        axis = figure.subplots()
        image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        ticks = range(len(shown))
        axis.set_xticks(ticks, [_short(names[c]) for c in shown], rotation=90, fontsize=9)
        axis.set_yticks(ticks, [_short(names[c]) for c in shown], fontsize=9)
        for row, column in np.argwhere(shares >= 0.5) if len(shown) <= MOST_WITH_NUMBERS else ():
            value = shares[row, column]
            colour = "w" if value > 55 else "k"
            axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
        accuracy = 100 * (labels == predicted).double().mean()
        part = f"\nthe {len(shown)} of {classes} classes with the most mistakes" if len(shown) < classes else ""
        axis.set(xlabel="predicted class", ylabel="true class",
                 title=f"{accuracy:.1f} % of {len(labels):,} test images are right{part}")
        figure.colorbar(image, ax=axis, shrink=0.7, label="% of the images of the true class")
    return counts


def _class_name(source: ImageSource, label: int) -> str:
    return _short(source.class_names[label] if source.class_names else str(int(label)))


def _short(name: str) -> str:
    name = name.replace("$", r"\$")  # no formula
    return name if len(name) <= 18 else f"{name[:17]}…"


def _show(axis, image, title: str, colour: str) -> None:
    image.thumbnail((_SIDE, _SIDE))
    axis.imshow(np.asarray(image))
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=8, color=colour, pad=4)
    for spine in axis.spines.values():
        spine.set(color=colour, linewidth=1 if colour == "black" else 2.5)
