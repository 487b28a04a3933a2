"""The paper's tables from result files: `eval_downstream.py table results/*.json`.

Rows are networks measured in one way, seeds are put together (mean ± standard deviation), columns are the paper's. Its
own figures stand beside ours where the protocol is the same: ReActNet-A, trained and evaluated as in the paper, on its
data.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from ..errors import BurnError
from .paper import TABLES, Column
from .published import last_part, same_protocol
from .rows import rows_of, set_of

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


class Spread(NamedTuple):
    """A figure that is a mean itself, in per cent, with its standard deviation."""

    mean: float
    std: float


def figure(result: dict, column: Column) -> float | Spread | str | None:
    """A column's figure of a result in per cent; "n/a" where its set could not supply it, None where the column is not
    about it."""
    if result["task"] != column.task or not named(result["dataset"]["name"], column.dataset):
        return None
    for keys, value in column.only:
        if _at(result, keys) != value:
            return None
    found = _at(result, column.where)
    if isinstance(found, dict):  # mean and standard deviation over draws
        return Spread(100 * found["mean"], 100 * found["std"])
    return found if found is None or isinstance(found, str) else 100 * found


def named(dataset: str, name: str) -> bool:
    """Whether the last part of a dataset's name is `name` ('' for any): cifar10 is not cifar100."""
    return not name or last_part(dataset) == name


def _at(value, keys: tuple[str, ...]):
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return value


def spread(values: list[float | Spread | str]) -> str:
    """Mean, and the standard deviation (n - 1) where there are two or more; that of the draws where one has them;
    "n/a" where no value is known."""
    values = [value for value in values if value != "n/a"]
    if not values:
        return "n/a"
    if len(values) == 1 and isinstance(values[0], Spread):
        return f"{values[0].mean:.2f} ± {values[0].std:.2f}"
    values = [value.mean if isinstance(value, Spread) else value for value in values]
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{mean(values):.2f} ± {stdev(values):.2f}"


def of_seed(results: list[dict], column: Column) -> float | Spread | str:
    """The figure of one seed's results: weights that were measured again count once, with the mean."""
    figures = [value for value in (figure(result, column) for result in results) if value != "n/a"]
    if len(figures) < 2:
        return figures[0] if figures else "n/a"
    return mean(value.mean if isinstance(value, Spread) else value for value in figures)


def starts_of(result: dict) -> list[dict]:
    """A fine-tuning from packed and from latent weights is two results; the first, whose figure is the file's, has the
    network's own row."""
    starts = (result.get("extra") or {}).get("starts") if result["task"] == "finetune" else None
    if not starts or len(starts) < 2:
        return [result]
    main, *others = starts
    return [result, *(
        {**result, "value": starts[start]["top1"], "extra": {"top5": starts[start]["top5"]}, "start": start}
        for start in others
    )]


def paper_table(number: int, results: list[dict], always: bool = False) -> str:
    """Markdown of one of the paper's tables, a part for each dataset; '' where no result belongs to it.

    Args:
        always: the paper's rows even where none of ours is comparable.
    """
    table = TABLES[number]
    if number in (5, 6, 7):  # ablations are BURN's
        results = [r for r in results if (r.get("training") or {}).get("method") == "burn"]
    columns = defaultdict(lambda: defaultdict(list))  # part -> column -> results
    for result in (result for found in results for result in starts_of(found)):
        for index, column in enumerate(table.columns):
            if figure(result, column) is not None:
                columns["" if number == 4 else set_of(result)][index].append(result)
    if not columns and not always:
        return ""
    lines = [f"## Table {number}: {table.caption} (%)", ""]
    for part, ours in columns.items():
        rows = defaultdict(dict)
        for index, members in ours.items():
            for name, seeds in rows_of(members).items():
                rows[name][index] = spread([of_seed(same, table.columns[index]) for same in seeds])
        same = {index for index, members in ours.items() if any(same_protocol(number, r) for r in members)}
        shown = [index for index in range(len(table.columns)) if always or index in same or index not in ours]
        lines += [f"{part}", ""] if part else []
        lines += _markdown(table.columns, rows, table.rows if same or always else {}, shown)
    if not columns:
        lines += _markdown(table.columns, {}, table.rows, range(len(table.columns)))
    return "\n".join(lines)


def _markdown(columns: tuple[Column, ...], rows: dict, paper: dict, shown: Iterable[int]) -> list[str]:
    """The table's lines; `shown`: the columns in which the paper's figures stand."""
    lines = ["| | " + " | ".join(column.heading for column in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, figures in paper.items():
        texts = [figure if isinstance(figure, str) else f"{figure:.2f}" for figure in figures]
        cells = [text if index in shown else "" for index, text in enumerate(texts)]
        lines.append(f"| {name}, the paper's figures | " + " | ".join(cells) + " |")
    for name, cells in sorted(rows.items()):
        lines.append(f"| {name} | " + " | ".join(cells.get(index, "") for index in range(len(columns))) + " |")
    return [*lines, ""]


def comparison_table(results: list[dict]) -> str:
    """Markdown: kNN and linear of every network, best first, with what its training cost; a part for each dataset."""
    columns = defaultdict(lambda: defaultdict(list))  # part -> task -> results
    for result in results:
        if result["task"] in ("knn", "linear"):
            columns[set_of(result)][result["task"]].append(result)
    parts = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for part, tasks in columns.items():
        for task, members in tasks.items():
            for name, seeds in rows_of(members).items():
                parts[part][name][task] = [100 * mean(result["value"] for result in same) for same in seeds]
                for cost in COST:
                    spent = [(same[0].get("training") or {}).get(cost) for same in seeds]
                    spent = [value for value in spent if value]
                    parts[part][name][cost] = max(spent, parts[part][name][cost], key=len)
    lines = []
    for part, rows in parts.items():
        lines += [f"## Frozen features, top-1 (%): {part}", "", "| | kNN | linear | seeds | minutes | memory, GB |",
                  "|---|---|---|---|---|---|"]

        def order(row: dict) -> tuple:
            return tuple(-mean(row[task]) if row[task] else 0.0 for task in ("linear", "knn"))

        for name, row in sorted(rows.items(), key=lambda item: order(item[1])):
            knn, linear = (spread(row[task]) if row[task] else "" for task in ("knn", "linear"))
            seeds = max(len(row["knn"]), len(row["linear"]))
            minutes, memory = (
                f"{mean(row[key]) / scale:.1f}" if row[key] else "" for key, scale in zip(COST, (60, 1e9),
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
