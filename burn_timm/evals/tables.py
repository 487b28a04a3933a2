"""The paper's tables from result files: `eval_downstream.py table results/*.json`.

Rows are networks, seeds are put together (mean ± standard deviation), columns are the paper's. Its own figures stand
beside ours where the protocol is the same: ReActNet-A, trained and evaluated on the data that the paper used.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev

from ..errors import BurnError
from .paper import TABLES, Column, row_name

IMAGENET = (1_281_167, 50_000)  # images of training and validation
COST = ("train_seconds", "peak_memory_bytes")


def read_results(paths: Iterable[str]) -> list[dict]:
    """The results among some JSON files; other JSON files, such as summaries of training, are left out.

    Raises:
        BurnError: a file cannot be read, or none is a result.
    """
    results = []
    for path in paths:
        try:
            result = json.loads(Path(path).read_text())
        except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise BurnError(f"{path}: not a JSON file that can be read ({error})") from error
        if isinstance(result, dict) and {"task", "value", "protocol", "dataset"} <= set(result):
            results.append({**result, "file": str(path)})
    if not results:
        raise BurnError("no results among the files: give JSONs that eval_downstream.py has written")
    return results


def network(result: dict) -> str:
    """The row of a result: which network, trained how; the same for all seeds."""
    protocol, training = result["protocol"], result.get("training")
    if result["model"] == "pixels":
        return "raw pixels"
    if training:
        budget = f"{training['max_steps']} steps" if training.get("max_steps") else f"{training.get('epochs')} epochs"
        stages = "" if training.get("stages") == ["fp"] else " a stage"
        return f"{row_name(training)} ({training['model']}, {training.get('img_size')} px, {budget}{stages})"
    weights = str(protocol.get("weights", ""))
    if weights.startswith("random"):
        calibrated = ", BatchNorm calibrated" if "calibrated_batchnorm" in protocol else ""
        size = f", {protocol['transform']['input_size'][-1]} px" if "transform" in protocol else ""
        return f"untrained ({result['model']}{size}{calibrated})"
    digest = (result.get("checkpoint") or {}).get("sha256", "")[:8]  # one path may have held several networks
    return f"{result['model']} ({weights}{' ' + digest if digest else ''})" if weights else result["model"]


def same_protocol(number: int, result: dict) -> bool:
    """Whether the paper's figures of a table may stand beside a result: ReActNet-A, trained on the whole of ImageNet at
    224 px, and evaluated in the published way on all of the paper's images."""
    training, protocol, dataset = result.get("training") or {}, result["protocol"], result["dataset"]
    # A run's dataset is named with its count, "..., 1,281,167 images, ...".
    imagenet = f"{IMAGENET[0]:,}" in str(training.get("dataset"))
    same_network = training.get("model") in ("reactnet_a", "reactnet_a_burn") and training.get("img_size") == 224
    if not (imagenet and same_network):
        return False
    if number == 1:  # VOC 07+12
        return (sum(part["images"] for part in dataset["train"]), dataset["test"]["images"]) == (16_551, 4_952)
    cut = [part for part in ("train", "test") if dataset[part]["images"] != dataset[part]["of"]]
    if cut and not (cut == ["train"] and result["task"] == "finetune"):  # --limit-train, --limit-test
        return False
    counts = dataset["train"]["of"], dataset["test"]["images"]
    if number == 3:
        return counts == (5_011, 4_952)
    if number == 4:
        return True
    published = result["task"] != "linear" or str(protocol.get("views")).startswith("random resized crop")
    return counts == IMAGENET and published


def set_of(result: dict) -> str:
    """The data of a result, in words."""
    dataset = result["dataset"]
    if isinstance(dataset["train"], list):  # detection: several sets
        train = " + ".join(f"{part['split']}, {part['images']:,} images" for part in dataset["train"])
        return f"{dataset['name']}: {train}; test {dataset['test']['split']}, {dataset['test']['images']:,} images"
    return dataset["description"] or dataset["name"]


def figure(result: dict, column: Column) -> float | None:
    """A column's figure of a result in per cent, or None where the column is not about it."""
    if result["task"] != column.task or not named(result["dataset"]["name"], column.dataset):
        return None
    for keys, value in column.only:
        if _at(result, keys) != value:
            return None
    found = _at(result, column.where)
    return None if found is None or isinstance(found, str) else 100 * found


def named(dataset: str, name: str) -> bool:
    """Whether the last part of a dataset's name is `name` ('' for any): cifar10 is not cifar100."""
    return not name or dataset.rstrip("/").rsplit("/", 1)[-1].lower().replace("-", "") == name


def _at(value, keys: tuple[str, ...]):
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return value


def spread(values: list[float]) -> str:
    """Mean, and the standard deviation (n - 1) where there are two or more."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{mean(values):.2f} ± {stdev(values):.2f}"


def paper_table(number: int, results: list[dict], always: bool = False) -> str:
    """Markdown of one of the paper's tables, a part for each dataset; '' where no result belongs to it.

    Args:
        always: the paper's rows even where none of ours is comparable.
    """
    table = TABLES[number]
    if number in (5, 6, 7):  # ablations are BURN's
        results = [r for r in results if (r.get("training") or {}).get("method") == "burn"]
    parts = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    comparable = defaultdict(bool)
    for result in results:
        for index, column in enumerate(table.columns):
            value = figure(result, column)
            if value is not None:
                part = "" if number == 4 else set_of(result)
                parts[part][network(result)][index].append(value)
                comparable[part] |= same_protocol(number, result)
    if not parts and not always:
        return ""
    lines = [f"## Table {number}: {table.caption} (%)", ""]
    for part, rows in parts.items():
        lines += [f"{part}", ""] if part else []
        lines += _markdown(table.columns, rows, table.rows if comparable[part] or always else {})
    if not parts:
        lines += _markdown(table.columns, {}, table.rows)
    return "\n".join(lines)


def _markdown(columns: tuple[Column, ...], rows: dict, paper: dict) -> list[str]:
    lines = ["| | " + " | ".join(column.heading for column in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, figures in paper.items():
        cells = [figure if isinstance(figure, str) else f"{figure:.2f}" for figure in figures]
        lines.append(f"| {name}, the paper's figures | " + " | ".join(cells) + " |")
    for name, cells in sorted(rows.items()):
        shown = [spread(cells[index]) if cells.get(index) else "" for index in range(len(columns))]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return [*lines, ""]


def comparison_table(results: list[dict]) -> str:
    """Markdown: kNN and linear of every network, best first, with what its training cost; a part for each dataset."""
    parts = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for result in results:
        if result["task"] not in ("knn", "linear"):
            continue
        row = parts[set_of(result)][network(result)]
        seed = (result.get("training") or {}).get("seed", result["protocol"].get("seed"))
        row[result["task"]][seed] = 100 * result["value"]
        for name in COST:
            if (result.get("training") or {}).get(name):
                row[name][seed] = result["training"][name]
    lines = []
    for part, rows in parts.items():
        lines += [f"## Frozen features, top-1 (%): {part}", "", "| | kNN | linear | seeds | minutes | memory, GB |",
                  "|---|---|---|---|---|---|"]

        def order(row: dict) -> tuple:
            return tuple(-mean(row[task].values()) if row[task] else 0.0 for task in ("linear", "knn"))

        for name, row in sorted(rows.items(), key=lambda item: order(item[1])):
            knn, linear = (spread(list(row[task].values())) if row[task] else "" for task in ("knn", "linear"))
            seeds = max(len(row["knn"]), len(row["linear"]))
            minutes, memory = (
                f"{mean(row[key].values()) / scale:.1f}" if row[key] else "" for key, scale in zip(COST, (60, 1e9),
                                                                                                 strict=True)
            )
            lines.append(f"| {name} | {knn} | {linear} | {seeds} | {minutes} | {memory} |")
        lines.append("")
    return "\n".join(lines)


def all_tables(results: list[dict], numbers: Iterable[int] | None = None, always: bool = False) -> str:
    """The comparison of frozen features and the paper's tables that the results have figures for.

    Raises:
        BurnError: there is none.
    """
    parts = [] if numbers else [comparison_table(results)]
    parts += [paper_table(number, results, always) for number in numbers or TABLES]
    text = "\n".join(part for part in parts if part)
    if not text:
        raise BurnError("the results have no figure for these tables")
    return text
