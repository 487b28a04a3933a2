"""The images of an evaluation: both splits, checked and cut to what the options ask for."""

import argparse
from dataclasses import dataclass

import torch

from ..arguments import number, positive
from ..data import (
    PUBLISHED_SPLITS,
    TEST_SPLITS,
    ImageSource,
    StreamSource,
    align,
    open_dataset,
    random_subset,
)
from ..data.views import INTERPOLATIONS
from ..errors import BurnError, NoSplitError

HOLD_OUT = 0.1  # share of the training images on which something is chosen
Source = ImageSource | StreamSource


@dataclass(frozen=True)
class Split:
    """One split of a dataset: `source` is all of it, `used` the images that the evaluation works on."""

    name: str
    source: Source
    used: Source

    def line(self) -> str:
        """For people: the source with its count, and how many images are used if not all are."""
        used = "" if len(self.used) == len(self.source) else f"; used: {len(self.used):,}"
        return self.source.description + used

    def counts(self, images: int) -> dict:
        """For the result file; `images` could be read."""
        return {"split": self.name, "images": images, "of": len(self.source)}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which images, and how large."""
    add = parser.add_argument
    add("--dataset", default="folder", metavar="NAME",
        help="folder (default: what --data-dir holds), digits, digits_in_photos, cub, birdsnap, places205, voc07 (svm) "
        "or a name of timm's: torch/..., hfds/...")
    add("--train-split", metavar="NAME", help="split to learn from; default: train, of voc07 trainval")
    add("--val-split", metavar="NAME",
        help=f"split to test on; default: the published one, or the first of {', '.join(TEST_SPLITS)} that there is")
    add("--input-key", metavar="COLUMN", help="hfds/wds: column of the image")
    add("--target-key", metavar="COLUMN", help="hfds/wds: column of the label")
    add("--img-size", type=positive, metavar="PIXELS", help="default: the model's own input size")
    add("--crop-pct", type=number(above=0, most=1), metavar="FRACTION",
        help="centre crop; default: the model's own (1 keeps all)")
    add("--interpolation", choices=INTERPOLATIONS, help="of images without random views (published: "
        "bilinear); default: the model's own")
    add("--batch-size", type=positive, default=128, metavar="N", help="images per forward pass")
    add("--limit-train", type=positive, metavar="N", help="a seeded random subset of N training images")
    add("--limit-test", type=positive, metavar="N", help="a seeded random subset of N test images")


def open_splits(args: argparse.Namespace, multi_label: bool = False, labelled: bool = True) -> tuple[Split, Split]:
    """The training and the test split.

    By default those of a published set are the ones it is published with, of other sets they are `train` and the first
    of `TEST_SPLITS` that there is.

    Args:
        multi_label: accept sets whose images have several labels.
        labelled: False: accept images without labels; where there is no test split, a seeded tenth of the training
            images is used.

    Raises:
        BurnError: there is no such split, it cannot be read, has no labels, or has images of the training split; or
            --limit-train or --limit-test ask for too many images.
    """
    train_name, test_name = PUBLISHED_SPLITS.get(args.dataset.lower(), ("train", None))
    train_name, test_name = args.train_split or train_name, args.val_split or test_name
    train = _open(args, train_name)
    try:
        name, test = _open_test(args, [test_name] if test_name else [one for one in TEST_SPLITS if one != train_name])
    except NoSplitError:
        if labelled or args.val_split or train.streaming:
            raise
        name = f"a tenth of {train_name}"
        test, train = hold_out(train, args.seed)
    else:
        test = align(test, train)
        if shared := len(test) if name == train_name else train.shared(test):
            raise BurnError(
                f"--val-split {name}: {shared:,} of its {len(test):,} images are among those of --train-split "
                f"{train_name}; name a split apart from it"
            )
    for split, source in (("--train-split", train), ("--val-split", test)):
        if labelled and not (multi_label and source.multi_label):
            source.require_labels(split)
    return (
        Split(train_name, train, subset(train, args.limit_train, args.seed, "--limit-train")),
        Split(name, test, subset(test, args.limit_test, args.seed, "--limit-test")),
    )


def subset(source: Source, count: int | None, seed: int, option: str) -> Source:
    """A seeded random subset in the source's own order (the first `count` of a folder would be one class)."""
    if count is None:
        return source
    require_numbers(source, option)
    if count > len(source):
        raise BurnError(f"{option} {count}: there are only {len(source)} images")
    return random_subset(source, count, seed)


def require_numbers(source: Source, what: str) -> None:
    """Raise BurnError, which `what` opens, for a stream."""
    if source.streaming:
        raise BurnError(f"{what} needs images by number, which a stream (wds/...) has not: use folder or hfds")


def hold_out(source: ImageSource, seed: int) -> tuple[ImageSource, ImageSource]:
    """A seeded tenth of some images, and the others."""
    count = max(1, round(HOLD_OUT * len(source)))
    chosen = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[:count].sort().values.tolist()
    others = sorted(set(range(len(source))).difference(chosen))
    return source.subset(chosen), source.subset(others)


def describe(args: argparse.Namespace, train: Split, test: Split, train_images: int, test_images: int) -> dict:
    """The dataset, for the result file; so many images of the splits could be read."""
    return {
        "name": args.dataset, "data_dir": args.data_dir, "description": train.source.description,
        "classes": train.source.num_classes, "train": train.counts(train_images), "test": test.counts(test_images),
    }


def _open(args: argparse.Namespace, split: str) -> Source:
    return open_dataset(args.dataset, args.data_dir, split, input_key=args.input_key, target_key=args.target_key)


def _open_test(args: argparse.Namespace, candidates: list[str]) -> tuple[str, Source]:
    for split in candidates:
        try:
            return split, _open(args, split)
        except NoSplitError as error:  # any other error is about a split that is there
            missing = error
    raise NoSplitError(f"no test split: {missing} (name one with --val-split)") from missing
