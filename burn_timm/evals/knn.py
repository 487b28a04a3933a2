"""Weighted k-nearest-neighbour classification of frozen features: the monitor of self-supervised training.

Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination, CVPR 2018
(https://arxiv.org/abs/1805.01978), section 3.4. Nothing is trained.
"""

import argparse
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments import above_zero, file_ending, positive
from ..data import ImageSource
from ..errors import BurnError
from .features import check_features
from .inputs import require_numbers

DESCRIPTION = "weighted kNN on frozen pooled features (Wu et al. 2018): top-1 accuracy, nothing trained"

# Similarities held at a time, of some test images with all training images: 2^25 float32 are 128 MiB.
_SIMILARITIES = 2**25


NEIGHBOURS, TEMPERATURE = 20, 0.07  # the temperature is Wu et al.'s, who take 200 neighbours


@dataclass(frozen=True)
class Settings:
    k: int = NEIGHBOURS
    temperature: float = TEMPERATURE

    def protocol(self) -> dict:
        """In words, for the result file."""
        return {
            "method": "weighted kNN (Wu et al. 2018, section 3.4)",
            "k": self.k,
            "temperature": self.temperature,
            "features": "L2-normalised, not centred",
            "similarity": "cosine",
            "vote": "sum of exp(similarity / temperature) over the k nearest training images",
            "ties": "lower training index, then lower class",
            "metric": "top-1 accuracy, fraction",
        }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--k", type=positive, default=NEIGHBOURS, help="neighbours")
    parser.add_argument("--temperature", type=above_zero, default=TEMPERATURE, help="of the vote")
    parser.add_argument(
        "--neighbours", type=file_ending(".png"), metavar="FILE.png",
        help="draw test images and their nearest training images; without --output no labels are needed, and without a "
        "test split a tenth of the images are the test images",
    )


def settings(args: argparse.Namespace, train: ImageSource) -> Settings:
    if args.neighbours:
        require_numbers(train, "--neighbours")
    if args.output is not None:  # a picture alone needs no vote
        _check_k(args.k, len(train))
    return Settings(args.k, args.temperature)


def run(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor,
    settings: Settings = Settings(),
) -> dict:
    """`knn_accuracy` in the signature of all tasks: dict(value=...)."""
    features = train_features, train_labels, test_features, test_labels
    return {"value": knn_accuracy(*features, settings.k, settings.temperature)}


@torch.no_grad()
def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> float:
    """Top-1 accuracy in [0, 1] of the weighted kNN vote, computed where `train_features` lies.

    Class c gets the sum of exp(s_i / temperature) over those of the k training images nearest in cosine similarity s_i
    whose label is c. Of equally near images the one with the lower index is taken, of equal votes the lower class.

    Args:
        train_features, test_features: float [N, D] and [M, D]; need not be normalised. Labels are int64, >= 0.

    Raises:
        BurnError: k is not in [1, N], or the features cannot be scored.
    """
    check_features(train_features, train_labels, test_features, test_labels)
    _check_k(k, len(train_features))
    device = train_features.device
    train_features = F.normalize(train_features.float(), dim=1)
    test_features = F.normalize(test_features.to(device).float(), dim=1)
    train_labels, test_labels = train_labels.to(device), test_labels.to(device)
    classes = int(torch.maximum(train_labels.max(), test_labels.max())) + 1
    chunk = max(1, _SIMILARITIES // len(train_features))

    correct = 0
    for queries, labels in zip(test_features.split(chunk), test_labels.split(chunk), strict=True):
        similarity, index = _nearest(queries @ train_features.T, k)
        # Relative to the nearest image: exp cannot overflow and the order of the votes is the same.
        weight = torch.exp((similarity - similarity[:, :1]).double() / temperature)
        votes = weight.new_zeros(len(queries), classes)
        # One neighbour at a time, from near to far: votes equal on paper are equal here, on a GPU too.
        for vote, label in zip(weight.split(1, dim=1), train_labels[index].split(1, dim=1), strict=True):
            votes.scatter_add_(1, label, vote)
        correct += int((votes.argmax(1) == labels).sum())
    return correct / len(test_labels)


def nearest(train_features: Tensor, test_features: Tensor, k: int) -> Tensor:
    """Indices [M, k] of the training images (features [N, D]) nearest to each test image ([M, D]), nearest first."""
    train_features, test_features = (F.normalize(part.float(), dim=1) for part in (train_features, test_features))
    return _nearest(test_features @ train_features.T, k)[1]


def _check_k(k: int, images: int) -> None:
    if not 1 <= k <= images:
        raise BurnError(f"--k {k}, but there are {images} training images; add --k with 1 to {images}")


def _nearest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values, indices) [M, k] of the k largest per row of [M, N], descending, equal values by ascending index."""
    values, index = similarity.topk(k, dim=1)
    # topk leaves the choice among equals open: sort again, stably, the rows that contain equals.
    tied = (similarity >= values[:, -1:]).sum(1) > k
    tied |= (values[:, 1:] == values[:, :-1]).any(1)
    if tied.any():
        index[tied] = similarity[tied].argsort(dim=1, descending=True, stable=True)[:, :k]
        values[tied] = similarity[tied].gather(1, index[tied])
    return values, index
