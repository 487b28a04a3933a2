"""Transfer (Table 4 of the BURN paper): the backbone stays as it is, a classifier learns another set.

The classifier is that of `linear`, with the settings that are published for a set as its defaults: Places205's
(`PRESETS`) are Goyal et al.'s (ICCV 2019); for CIFAR-10 and -100, CUB-200-2011 and Birdsnap, of which the paper says
only that the backbone is frozen, they are those of `linear`, with a sweep. `--classifier lbfgs` is the other usage:
logistic regression with 45 penalties. Images of any size are brought to the model's own, such as CIFAR's to 224.
"""

import argparse

from ..data import ImageSource
from . import linear
from .results import dataset_key

DESCRIPTION = "a classifier on frozen features of another set (cub, birdsnap, places205, torch/cifar10, ...): top-1"

run = linear.run

PRESETS: dict[str, dict] = {
    "places205": {
        "augment": True, "epochs": 14, "lrs": (0.01,), "milestones": (4 / 14, 8 / 14, 12 / 14), "weight_decay": 5e-4,
    },
}


def add_options(parser: argparse.ArgumentParser) -> None:
    linear.add_options(parser, epochs="100, places205: 14", weight_decay="0, places205: 5e-4")


def preset(dataset: str) -> dict:
    """The published settings of a dataset by its name on the command line, `{}` where there are none of its own."""
    return PRESETS.get(dataset_key(dataset), {})


def settings(args: argparse.Namespace, train: ImageSource) -> linear.Settings:
    """The published settings of the dataset, where it has some, and the options that were given instead of them."""
    published = dict(preset(args.dataset))
    if args.classifier == "lbfgs" or args.pixels or args.engine != "torch":
        published.pop("augment", None)  # these take no augmented views
    return linear.settings(args, train, **published)
