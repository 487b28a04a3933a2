"""The paper's tables from results: `eval_downstream.py table results/*.jsonl`.

Results are the JSON files that `eval_downstream.py` writes, or `.jsonl` files with one of them on each line. A row is
one network, measured in one way; the figures of several seeds become mean ± standard deviation. The paper's own figures
stand beside ours only where the protocol is the same.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from ..errors import BurnError
from ..files import read_json, read_lines
from ..tables import markdown
from .paper import TABLES, last_part, same_protocol
from .rows import rows_of, set_of


class Spread(NamedTuple):
    """A figure that is itself a mean over draws, in per cent, with its standard deviation."""

    mean: float
    std: float


Figure = float | Spread | str  # in per cent; "n/a" where a set was too small for it


def read_results(paths: Iterable[str | Path]) -> list[dict]:
    """The results in some JSON and `.jsonl` files; other objects, such as summaries of training, are left out.

    Each result has one entry more, `file`: where it was read.

    Raises:
        BurnError: A file cannot be read, or none holds a result.
    """
    results = []
    for path in map(Path, paths):
        lines = read_lines(path) if path.suffix == ".jsonl" and path.is_file() else [read_json(path, object)]
        for line in lines:
            if isinstance(line, dict) and {"task", "value", "protocol", "dataset"} <= line.keys():
                results.append({**line, "file": f"{path}, {line['name']}" if "name" in line else str(path)})
    if not results:
        raise BurnError("no results among the files: give files that eval_downstream.py has written")
    return results


def all_tables(results: list[dict], numbers: Iterable[int] | None = None, always: bool = False) -> str:
    """Markdown of the comparison of frozen features and of the paper's tables that the results have figures for.

    Args:
        numbers: only these tables of the paper.
        always: the paper's rows even where none of ours is comparable.

    Raises:
        BurnError: There is none.
    """
    parts = [] if numbers else [comparison_table(results)]
    parts += [paper_table(number, results, always) for number in numbers or TABLES]
    text = "\n".join(part for part in parts if part)
    if not text:
        raise BurnError("the results have no figure for these tables")
    return text


def paper_table(number: int, results: list[dict], always: bool = False) -> str:
    """Markdown of one of the paper's tables, a part for each dataset; empty where no result belongs to it."""
    table = TABLES[number]
    if number in (5, 6, 7):  # ablations of BURN
        results = [result for result in results if (result.get("training") or {}).get("method") == "burn"]
    parts = defaultdict(lambda: defaultdict(list))  # dataset -> column -> results
    for result in (start for found in results for start in _starts_of(found)):
        for index, column in enumerate(table["columns"]):
            if figure(result, column) is not None:
                parts["" if number == 4 else set_of(result)][index].append(result)
    if not parts and always:
        parts[""] = {}
    text = "\n".join(f"{part}\n\n{_part(number, members, always)}\n".lstrip() for part, members in parts.items())
    return f"## Table {number}: {table['caption']} (%)\n\n{text}" if text else ""


def _part(number: int, results: dict[int, list[dict]], always: bool) -> str:
    """The table of one dataset. `results`: those of each column, by its index."""
    table = TABLES[number]
    columns = range(len(table["columns"]))
    ours = defaultdict(dict)
    for index, members in results.items():
        for name, seeds in rows_of(members).items():
            ours[name][index] = spread([_of_seed(same, table["columns"][index]) for same in seeds])
    same = {index for index in results if any(same_protocol(number, result) for result in results[index])}
    shown = {index for index in columns if always or index in same or index not in results}
    papers = [
        [f"{name}, the paper's figures", *(_text(figures[index]) if index in shown else "" for index in columns)]
        for name, figures in (table["rows"].items() if same or always else ())
    ]
    rows = [[name, *(cells.get(index, "") for index in columns)] for name, cells in sorted(ours.items())]
    return markdown(["", *(column["heading"] for column in table["columns"])], [*papers, *rows])


def _text(figure: float | str) -> str:
    return figure if isinstance(figure, str) else f"{figure:.2f}"


def figure(result: dict, column: dict) -> Figure | None:
    """A column's figure of a result; None where the column is about something else."""
    if result["task"] != column["task"]:
        return None
    if "dataset" in column and last_part(result["dataset"]["name"]) != column["dataset"]:
        return None
    if "fraction" in column and result["protocol"].get("fraction") != column["fraction"]:
        return None
    found = result
    for name in column["figure"].split("."):
        found = found.get(name) if isinstance(found, dict) else None
    if isinstance(found, dict):  # over draws
        return Spread(100 * found["mean"], 100 * found["std"])
    return found if found is None or isinstance(found, str) else 100 * found


def spread(values: Sequence[Figure]) -> str:
    """Mean ± standard deviation (n - 1) over the values; "n/a" where none is known.

    A single value has no deviation, or that of its draws.
    """
    known = [value for value in values if value != "n/a"]
    if not known:
        return "n/a"
    if len(known) == 1:
        return f"{known[0].mean:.2f} ± {known[0].std:.2f}" if isinstance(known[0], Spread) else f"{known[0]:.2f}"
    means = [value.mean if isinstance(value, Spread) else value for value in known]
    return f"{mean(means):.2f} ± {stdev(means):.2f}"


def _of_seed(results: list[dict], column: dict) -> Figure:
    """The figure of one seed: weights that were measured several times count once, with the mean."""
    known = [value for value in (figure(result, column) for result in results) if value != "n/a"]
    if len(known) < 2:
        return known[0] if known else "n/a"
    return mean(value.mean if isinstance(value, Spread) else value for value in known)


def _starts_of(result: dict) -> list[dict]:
    """Fine-tuning from packed and from latent weights, as one result each; others as they are.

    The first start has the network's own row, because its figure is the result's.
    """
    starts = (result.get("extra") or {}).get("starts") or {}
    return [result, *(
        {**result, "value": starts[name]["top1"], "extra": {"top5": starts[name]["top5"]}, "start": name}
        for name in list(starts)[1:]
    )]


def comparison_table(results: list[dict]) -> str:
    """Markdown: kNN and linear evaluation of every network, best first, with the cost of its training, by dataset."""
    parts = defaultdict(lambda: defaultdict(list))  # dataset -> task -> results
    for result in results:
        if result["task"] in ("knn", "linear"):
            parts[set_of(result)][result["task"]].append(result)
    texts = []
    for part, tasks in parts.items():
        rows = defaultdict(dict)  # name -> task -> results by seed
        for task, members in tasks.items():
            for name, seeds in rows_of(members).items():
                rows[name][task] = seeds
        cells = [_comparison(name, found) for name, found in sorted(rows.items(), key=lambda item: _order(item[1]))]
        table = markdown(["", "kNN", "linear", "seeds", "minutes", "memory, GB"], cells)
        texts.append(f"## Frozen features, top-1 (%): {part}\n\n{table}\n")
    return "\n".join(texts)


def _accuracies(seeds: list[list[dict]]) -> list[float]:
    return [100 * mean(result["value"] for result in same) for same in seeds]


def _order(found: dict[str, list[list[dict]]]) -> list[float]:
    return [-mean(_accuracies(found[task])) if task in found else 0.0 for task in ("linear", "knn")]


def _comparison(name: str, found: dict[str, list[list[dict]]]) -> list[str]:
    """One row. `found`: the results by task and seed."""
    largest = max(found.values(), key=len)  # the task with the most seeds
    trainings = [same[0].get("training") or {} for same in largest]
    costs = []
    for entry, unit in (("train_seconds", 60), ("peak_memory_bytes", 1e9)):
        spent = [training[entry] / unit for training in trainings if training.get(entry)]
        costs.append(f"{mean(spent):.1f}" if spent else "")
    accuracies = [spread(_accuracies(found[task])) if task in found else "" for task in ("knn", "linear")]
    return [name, *accuracies, str(len(largest)), *costs]
