"""`hfds/NAME`: Hugging Face datasets and local parquet folders through timm's reader, columns found where not named."""

import os

from timm.data import create_dataset

from burn_timm.data.sources import ImageSource, TimmImages, public_path
from burn_timm.errors import BurnError, NoSplitError


def open_hfds(
    name: str, cache_dir: str | None, split: str, input_key: str | None, target_key: str | None
) -> ImageSource:
    """Open the dataset `name` (a Hub repository or a local folder, without the `hfds/`).

    `input_key` None: the column `image`, else the only column of type Image. `target_key` None: the column `label`,
    else the only ClassLabel column, else the only integer column, else unlabelled; '' means unlabelled. Raises
    BurnError for a missing package, folder, split or column, and for a choice that is not unique.
    """
    try:
        import datasets
    except ImportError as error:
        raise BurnError("--dataset hfds/... needs the package datasets: pip install datasets") from error
    name = os.path.expanduser(name)
    local = name.startswith((".", os.sep)) or name.count("/") > 1
    if local and not os.path.isdir(name):
        raise BurnError(f"--dataset hfds/{name}: no such folder {name}")
    shown = f"hfds/{public_path(name) if os.path.isdir(name) else name}"

    try:
        features = datasets.load_dataset(name, split=split, cache_dir=cache_dir).features
    except Exception as error:  # whatever the library raises, the user needs the line and the splits
        raise _told(error, shown, name, split, datasets) from error
    input_key = _image_column(datasets, features, input_key, shown)
    target_key = _target_column(datasets, features, target_key, shown)
    dataset = create_dataset(
        f"hfds/{name}",
        root=cache_dir,
        split=split,
        input_key=input_key,
        # timm's reader wants a column even where there is no label; what it returns is then not looked at
        target_key=target_key or input_key,
    )
    reader = dataset.reader
    if not len(reader):
        raise BurnError(f"--dataset {shown}: split {split!r} is empty")
    names = list(reader.class_to_idx) or None
    num_classes = None
    if target_key:
        targets = reader.dataset.select_columns(target_key)[:][target_key]
        largest = max((target for target in targets if target is not None), default=-1)
        if largest >= 0:  # -1 throughout is how a test split without labels is stored
            num_classes = len(names) if names else int(largest) + 1
    return ImageSource(TimmImages(reader, names if num_classes else None, num_classes), f"{shown} [{split}]")


def _image_column(datasets, features, key: str | None, shown: str) -> str:
    images = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    if key is not None:
        if key not in features:
            raise BurnError(f"--input-key {key}: no such column in {shown}; columns: {', '.join(features)}")
        return key
    if "image" in images:
        return "image"
    if len(images) != 1:
        found = f"{len(images)} image columns" if images else "no image column"
        raise BurnError(f"--dataset {shown} has {found}; name one by --input-key; columns: {', '.join(features)}")
    return images[0]


def _target_column(datasets, features, key: str | None, shown: str) -> str | None:
    """The column of the class, or None for unlabelled."""
    classes = [column for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    integers = [column for column, kind in features.items() if getattr(kind, "dtype", "").startswith(("int", "uint"))]
    if key == "":
        return None
    if key is not None:
        if key not in features:
            raise BurnError(f"--target-key {key}: no such column in {shown}; columns: {', '.join(features)}")
        if key not in integers:
            raise BurnError(f"--target-key {key}: not a class or integer column of {shown}; those are: {integers}")
        return key
    if "label" in integers:
        return "label"
    candidates = classes or [column for column in integers if column not in classes]
    if len(candidates) > 1:
        raise BurnError(
            f"--dataset {shown} has several columns that could be the class ({', '.join(candidates)}): "
            "name one by --target-key, or '' for none"
        )
    return candidates[0] if candidates else None


def _told(error: Exception, shown: str, name: str, split: str, datasets) -> BurnError:
    if isinstance(error, ValueError) and "split" in str(error).lower():
        try:
            available = ", ".join(datasets.get_dataset_split_names(name))
        except Exception:
            available = "unknown"
        return NoSplitError(f"--dataset {shown}: no split {split!r}; available: {available}")
    lines = str(error).splitlines() or [type(error).__name__]
    return BurnError(f"--dataset {shown}: cannot be opened: {lines[0]}")
