"""Pictures of what features know: test images with their nearest training images, and the confusion of classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data import ImageSource
from ..errors import BurnError
from ..files import atomic_write
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

    figure, axes = _grid(len(chosen) * len(found), count + 1)
    for row, (index, name) in enumerate((index, name) for index in range(len(chosen)) for name in found):
        image, label = test.load(chosen[index])
        if name == next(iter(found)):
            _show(axes[row, 0], image, _class_name(test, label) if labelled else "", "black")
        else:
            axes[row, 0].axis("off")
        numbers = found[name][index].tolist()
        for axis, number in zip(axes[row, 1:], numbers, strict=True):
            colour = UNKNOWN if known is None else RIGHT if known[number] == label else WRONG
            _show(axis, train.load(number)[0], _class_name(train, known[number]) if labelled else "", colour)
        right = f"{sum(known[number] == label for number in numbers)} of {count} right" if labelled else ""
        words = ([name] if len(found) > 1 else []) + ([right] if right else [])
        axes[row, 1].set_ylabel("\n".join(words), fontsize=9)
    figure.suptitle(
        "Left: test images. Right: their nearest training images, nearest first."
        + ("\nBlue frame: same class. Orange frame: another class." if labelled else ""),
        fontsize=11, y=1 - 0.1 / figure.get_figheight(), va="top",
    )
    _save(figure, path)
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
    figure = _figure(side + 0.8, side)
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    ticks = range(len(shown))
    axis.set_xticks(ticks, [_short(names[c]) for c in shown], rotation=90, fontsize=9)
    axis.set_yticks(ticks, [_short(names[c]) for c in shown], fontsize=9)
    for row, column in np.argwhere(shares >= 0.5) if len(shown) <= MOST_WITH_NUMBERS else ():
        value = shares[row, column]
        axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color="w" if value > 55 else "k")
    accuracy = 100 * (labels == predicted).double().mean()
    part = f"\nthe {len(shown)} of {classes} classes with the most mistakes" if len(shown) < classes else ""
    axis.set(xlabel="predicted class", ylabel="true class",
             title=f"{accuracy:.1f} % of {len(labels):,} test images are right{part}")
    figure.colorbar(image, ax=axis, shrink=0.7, label="% of the images of the true class")
    _save(figure, path)
    return counts


def _class_name(source: ImageSource, label: int) -> str:
    return _short(source.class_names[label] if source.class_names else str(int(label)))


def _short(name: str) -> str:
    name = name.replace("$", r"\$")  # no formula
    return name if len(name) <= 18 else f"{name[:17]}…"


def _figure(width: float, height: float, layout: str | None = "constrained"):
    from matplotlib.figure import Figure  # here, because it takes a second to import

    return Figure(figsize=(width, height), layout=layout)


def _grid(rows: int, columns: int):
    """A figure of square places, and their axes [rows, columns], with a gap behind the first column."""
    height = 1.3 * rows + 0.8
    figure = _figure(1.15 * columns + 0.7, height, layout=None)  # placing by itself takes seconds
    axes = figure.subplots(rows, columns, squeeze=False, width_ratios=[1.6, *[1] * (columns - 1)])
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.1 / height, top=1 - 0.8 / height, wspace=0.08)
    for axis in axes[:, 0]:
        axis.set_anchor("W")
    return figure, axes


def _show(axis, image, title: str, colour: str) -> None:
    image.thumbnail((_SIDE, _SIDE))
    axis.imshow(np.asarray(image))
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=8, color=colour, pad=4)
    for spine in axis.spines.values():
        spine.set(color=colour, linewidth=1 if colour == "black" else 2.5)


def _save(figure, path: str | Path) -> None:
    with atomic_write(path) as beside:
        figure.savefig(beside, format="png", dpi=110)
