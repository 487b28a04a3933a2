"""`hfds/NAME`: Hugging Face datasets and local parquet folders, columns found where they are not named."""

import io
import os
from collections.abc import Iterable

from PIL import Image

from burn_timm.data.decode import UnreadableImageError, decode
from burn_timm.data.sources import ImageSource, Store, file_stat, shown_path
from burn_timm.errors import BurnError, NoSplitError, one_line, require_package


class _Rows(Store):
    """Images in a column of a `datasets.Dataset`, each as `{"bytes": ..., "path": ...}`.

    `parts` are the (split, first row, row behind the last) that it consists of, None where they are not known.
    """

    def __init__(self, column, parts: list[tuple[str, int, int]] | None) -> None:
        (self._key,) = column.column_names
        self._column, self._parts = column, parts

    def __len__(self) -> int:
        return len(self._column)

    def image(self, index: int) -> Image.Image:
        cell = self._column[index][self._key]
        if not cell or not (cell["bytes"] or cell["path"]):
            raise UnreadableImageError("the row has no image")
        return decode(io.BytesIO(cell["bytes"]) if cell["bytes"] else cell["path"])

    def name(self, index: int) -> str:
        return (self._column[index][self._key] or {}).get("path") or f"row {index}"

    def identities(self) -> Iterable[str] | None:
        parts = self._parts
        return parts and (f"{split} {row}" for split, first, end in parts for row in range(first, end))

    def listing(self) -> Iterable[bytes]:
        """The number of bytes of each image: a column's offsets are read, its images are not."""
        from pyarrow import compute  # datasets needs it

        cells = self._column.data.column(self._key)
        sizes = compute.binary_length(compute.struct_field(cells, "bytes"))
        yield sizes.fill_null(-1).to_numpy().astype("<i8").tobytes()
        for path in self._files():
            yield f"{os.path.basename(path)} {file_stat(path, 'st_size')}".encode()

    def changed(self) -> Iterable[int]:
        return (file_stat(path, "st_mtime_ns") for path in self._files())

    def _files(self) -> Iterable[str]:
        """Paths of the images that lie outside the table."""
        from pyarrow import compute

        cells = self._column.data.column(self._key)
        outside = compute.is_null(compute.struct_field(cells, "bytes"))
        return (path or "" for path in compute.struct_field(cells, "path").filter(outside).to_pylist())


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
    kinds = data.features.items()
    images = [column for column, kind in kinds if isinstance(kind, datasets.Image)]
    classes = [column for column, kind in kinds if isinstance(kind, datasets.ClassLabel)]
    integers = [column for column, kind in kinds if getattr(kind, "dtype", "").startswith(("int", "uint"))]
    columns = f"{shown}; columns: {', '.join(data.features)}"
    input_key = input_key or _the_one("image", images, f"--dataset {columns}: name one by --input-key")
    if input_key not in data.features:
        raise BurnError(f"--input-key {input_key}: no such column in {columns}" if input_key else
                        f"--dataset {columns}: no image column")
    if target_key is None:
        candidates = integers if "label" in integers else classes or integers
        target_key = _the_one("label", candidates, f"--dataset {columns}: name one by --target-key, or '' for none")
    elif target_key and target_key not in integers:
        raise BurnError(f"--target-key {target_key}: no class or integer column in {columns}")
    targets = names = None
    if target_key:
        names = getattr(data.features[target_key], "names", None)
        targets = [-1 if label is None else label for label in data.select_columns(target_key)[:][target_key]]
    pixels = data.select_columns(input_key).cast_column(input_key, datasets.Image(decode=False))
    return ImageSource(_Rows(pixels, _parts(data, split)), f"{shown} [{split}]", targets, names)


def _parts(data, split: str) -> list[tuple[str, int, int]] | None:
    """The rows of whole splits that `split`, such as `train[:50%]+test`, consists of; None where `data` has others."""
    from datasets import ReadInstruction

    sizes = {name: whole.num_examples for name, whole in (data.info.splits or {}).items()}
    try:
        read = ReadInstruction.from_spec("+".join(sizes) if split == "all" else split).to_absolute(sizes)
    except ValueError:  # splits are not told
        return None
    parts = [(part.splitname, part.from_, part.to) for part in read]
    return parts if sum(end - first for _, first, end in parts) == len(data) else None


def _the_one(usual: str, candidates: list[str], told: str) -> str | None:
    """The column of the usual name, else the only candidate, else None. Raises BurnError where there are several."""
    if usual not in candidates and len(candidates) > 1:
        raise BurnError(f"{told}; several columns could be it: {', '.join(candidates)}")
    return usual if usual in candidates else (*candidates, None)[0]


def _told(error: Exception, shown: str, name: str, split: str, datasets) -> BurnError:
    if isinstance(error, ValueError) and "split" in str(error).lower():
        try:
            available = ", ".join(datasets.get_dataset_split_names(name))
        except Exception:
            available = "unknown"
        return NoSplitError(f"--dataset {shown}: no split {split!r}; available: {available}")
    return BurnError(f"--dataset {shown}: cannot be opened: {one_line(error)}")
