"""Results: one JSON file for each measured figure, with everything needed to measure it again; how tables read them.

The names tell which results are seeds of one row of a table: ROW_sSEED_TASK, where `_sSEED` may be missing. A name is
the path of a file without `.json`, or the entry `name` of a line in a `.jsonl` file.
"""

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import BurnError
from ..files import read_json, read_lines, write_json
from ..provenance import file_sha256, made_by, redact_tree
from ..tables import spread

_SEED = re.compile(r"_s\d+(?=_|/|$)")
# Entries of a protocol that belong to a network or a seed, not to the way of measuring it.
_OF_A_NETWORK = {
    "weights", "engine", "features_of", "parameters", "transform", "feature_dim", "calibrated_batchnorm", "device",
    "seed", "starts",
}


def write_result(
    path: str | os.PathLike,
    *,
    task: str,
    value: float,
    protocol: dict,
    dataset: dict,
    model: str,
    checkpoint: str | os.PathLike | None,
    command: Sequence[str],
    extra: dict | None = None,
    training: dict | None = None,
) -> dict:
    """Write one result as JSON, whole or not at all, and return what was written.

    Keys: task, value, protocol, dataset, model, checkpoint (None, or dict(path, sha256)), those of `made_by`, and, if
    given, extra and training. All strings go through `redact`.

    Args:
        value: the headline figure, a fraction in [0, 1].
        dataset: names and counts.
        checkpoint: the file the weights came from, or None.
        command: the argument vector.
        training: how the checkpoint was trained (`network.training_of`).

    Raises:
        BurnError: the checkpoint cannot be read, or `path` cannot be written.
        ValueError: a value is not finite.
    """
    result = redact_tree({
        "task": task, "value": value, "protocol": protocol, "dataset": dataset, "model": model,
        "checkpoint": checkpoint and {"path": os.path.abspath(checkpoint), "sha256": file_sha256(checkpoint)},
    })
    optional = {"extra": extra, "training": training}
    result |= made_by(command) | redact_tree({name: entry for name, entry in optional.items() if entry is not None})
    write_json(path, result)
    return result


def read_results(paths: Iterable[str | Path]) -> list[dict]:
    """The results in some JSON and `.jsonl` files; other objects, such as summaries of training, are left out.

    Each result has its `name`, and one entry more, `file`: where it was read. One that is given twice is there once.

    Raises:
        BurnError: A file cannot be read, or none holds a result.
    """
    results: list[dict] = []
    known = set()
    for path in map(Path, paths):
        lines = read_lines(path) if path.suffix == ".jsonl" and path.is_file() else [read_json(path, object)]
        for number, line in enumerate(lines, start=1):
            if isinstance(line, dict) and {"task", "value", "protocol", "dataset"} <= line.keys():
                file = f"{path}, {line['name']}" if "name" in line else str(path)
                name = str(path.with_suffix("")) + (f", line {number}" if len(lines) > 1 else "")
                result = {"name": name, **line}
                if (content := json.dumps(result, sort_keys=True)) not in known:  # else one would count as two seeds
                    results.append({**result, "file": file})
                known.add(content)
    if not results:
        raise BurnError("no results among the files: give files that eval_downstream.py has written")
    return results


def row_of(result: dict) -> str:
    """The name of a result without its last seed and the task: its row in a table; `.` for `knn.json` of the folder one
    is in."""
    name = result["name"]
    if seeds := list(_SEED.finditer(name)):
        before, after = name[: seeds[-1].start()], name[seeds[-1].end():]
        if "/" not in after:
            return before
        name = before + after  # a folder's seed: the file's name tells rows apart
    return name.removesuffix(result["task"]).rstrip("_/") or "."


def dataset_key(name: str) -> str:
    """The last part of a dataset's name, small letters and digits alone: `cifar10` for `hfds//data/CIFAR-10`."""
    return re.sub(r"[^a-z0-9]", "", name.rstrip("/").rsplit("/", 1)[-1].lower())


def without_seed(text: str) -> str:
    """`text` without `_s0`, `_s1`, ... at the end of a word."""
    return _SEED.sub("", text)


def measured_how(result: dict) -> str:
    """Task, data and protocol in one text, which is equal where results of two networks may be compared."""
    protocol = {name: value for name, value in result["protocol"].items() if name not in _OF_A_NETWORK}
    data = [result["dataset"].get(name) for name in ("name", "description", "train", "test")]
    text = json.dumps([result["task"], *data, protocol], sort_keys=True)
    return re.sub(r", seed \d+", "", text)  # of the labels that were drawn


def entry(result: dict, path: str) -> Any:
    """An entry by its dotted name, `extra.test.voc.ap50`; None where it is missing."""
    found: Any = result
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def cell(figures: Sequence[float | dict | str]) -> str:
    """The figures of all seeds in a cell of a table: fractions, {mean, std} over draws, or words such as "n/a"."""
    known = [figure for figure in figures if not isinstance(figure, str)]
    if not known:
        return str(figures[0])
    if len(known) == 1 and isinstance(known[0], dict):
        return f"{100 * known[0]['mean']:.2f} ± {100 * known[0]['std']:.2f}"
    return spread([100 * (figure["mean"] if isinstance(figure, dict) else figure) for figure in known])
