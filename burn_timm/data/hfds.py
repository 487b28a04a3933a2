"""`hfds/NAME`: Hugging Face datasets and local parquet folders, columns found where they are not named."""

import io
import os
from collections.abc import Iterable

from PIL import Image

from burn_timm.data.decode import UnreadableImageError, decode
from burn_timm.data.sources import ImageSource, Store, shown_path
from burn_timm.errors import BurnError, NoSplitError, one_line, require_package


class _Rows(Store):
    """Images in a column of a `datasets.Dataset`, each as `{"bytes": ..., "path": ...}`."""

    def __init__(self, column) -> None:
        (self._key,) = column.column_names
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def image(self, index: int) -> Image.Image:
        cell = self._column[index][self._key]
        if not cell or not (cell["bytes"] or cell["path"]):
            raise UnreadableImageError("the row has no image")
        return decode(io.BytesIO(cell["bytes"]) if cell["bytes"] else cell["path"])

    def name(self, index: int) -> str:
        return (self._column[index][self._key] or {}).get("path") or f"row {index}"

    def listing(self) -> Iterable[bytes]:
        """The number of bytes of each image: a column's offsets are read, its images are not."""
        from pyarrow import compute  # datasets needs it

        sizes = compute.binary_length(compute.struct_field(self._column.data.column(self._key), "bytes"))
        yield sizes.fill_null(-1).to_numpy().astype("<i8").tobytes()


def open_hfds(
    name: str, cache_dir: str | None, split: str, input_key: str | None, target_key: str | None
) -> ImageSource:
    """Open the dataset `name` (a Hub repository or a local folder, without the `hfds/`).

    `input_key` None: the column `image`, else the only column of type Image. `target_key` None: the column `label`,
    else the only ClassLabel column, else the only integer column, else unlabelled; '' means unlabelled. Raises
    BurnError for a missing package, folder, split or column, for a choice that is not unique, and for a class that is
    out of range.
    """
    require_package("datasets", "hfds", "--dataset hfds/...")
    import datasets

    name = os.path.expanduser(name)
    local = name.startswith((".", os.sep)) or name.count("/") > 1
    if local and not os.path.isdir(name):
        raise BurnError(f"--dataset hfds/{name}: no such folder {name}")
    shown = f"hfds/{shown_path(name) if os.path.isdir(name) else name}"
    try:
        data = datasets.load_dataset(name, split=split, cache_dir=cache_dir)
    except Exception as error:  # whatever the library raises, the user needs the line and the splits
        raise _told(error, shown, name, split, datasets) from error
    if not len(data):
        raise BurnError(f"--dataset {shown}: split {split!r} is empty")
    input_key = _image_column(datasets, data.features, input_key, shown)
    target_key = _target_column(datasets, data.features, target_key, shown)
    targets = names = None
    if target_key:
        names = getattr(data.features[target_key], "names", None)
        targets = [-1 if label is None else label for label in data.select_columns(target_key)[:][target_key]]
    column = data.select_columns(input_key).cast_column(input_key, datasets.Image(decode=False))
    return ImageSource(_Rows(column), f"{shown} [{split}]", targets, names)


def _image_column(datasets, features, key: str | None, shown: str) -> str:
    images = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    if key is not None:
        return _present(key, "--input-key", features, shown)
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
    if key:
        if _present(key, "--target-key", features, shown) not in integers:
            raise BurnError(f"--target-key {key}: not a class or integer column of {shown}; those are: {integers}")
        return key
    candidates = ["label"] if "label" in integers else classes or integers
    if len(candidates) > 1 and key is None:
        raise BurnError(
            f"--dataset {shown} has several columns that could be the class ({', '.join(candidates)}): "
            "name one by --target-key, or '' for none"
        )
    return candidates[0] if candidates and key is None else None


def _present(key: str, option: str, features, shown: str) -> str:
    if key not in features:
        raise BurnError(f"{option} {key}: no such column in {shown}; columns: {', '.join(features)}")
    return key


def _told(error: Exception, shown: str, name: str, split: str, datasets) -> BurnError:
    if isinstance(error, ValueError) and "split" in str(error).lower():
        try:
            available = ", ".join(datasets.get_dataset_split_names(name))
        except Exception:
            available = "unknown"
        return NoSplitError(f"--dataset {shown}: no split {split!r}; available: {available}")
    return BurnError(f"--dataset {shown}: cannot be opened: {one_line(error)}")
