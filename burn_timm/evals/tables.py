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
Cells = dict[int, list[list[dict]]]  # of one row: the results of a column, by its index, in a list for each seed
COMPARED = [{"task": "knn", "figure": "value"}, {"task": "linear", "figure": "value"}]


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
    columns = table["columns"]
    if number in (5, 6, 7):  # ablations of BURN
        results = [result for result in results if (result.get("training") or {}).get("method") == "burn"]
    parts = _collected([start for result in results for start in _starts_of(result)], columns, by_dataset=number != 4)
    if not parts and always:
        parts[""] = {}
    texts = []
    for part, rows in parts.items():
        measured = {index for cells in rows.values() for index in cells}
        same = {index for cells in rows.values() for index, seeds in cells.items()
                if any(same_protocol(number, result) for of_seed in seeds for result in of_seed)}
        papers = table["rows"] if same or always else {}
        lines = [
            [f"{name}, the paper's figures", *(
                spread([value]) if always or index in same or index not in measured else ""
                for index, value in enumerate(values)
            )] for name, values in papers.items()
        ]
        lines += [[name, *_cells(rows[name], columns)] for name in sorted(rows)]
        text = markdown(["", *(column["heading"] for column in columns)], lines)
        texts.append(f"{part}\n\n{text}\n".lstrip())
    return "\n".join([f"## Table {number}: {table['caption']} (%)\n", *texts]) if texts else ""


def comparison_table(results: list[dict]) -> str:
    """Markdown: kNN and linear evaluation of every network, best first, with the cost of its training, by dataset."""
    texts = []
    for part, rows in _collected(results, COMPARED).items():
        best_first = sorted(rows.items(), key=lambda row: [-_mean(row[1].get(index, [])) for index in (1, 0)])
        lines = [[name, *_cells(cells, COMPARED), *_seeds_and_cost(cells)] for name, cells in best_first]
        text = markdown(["", "kNN", "linear", "seeds", "minutes", "memory, GB"], lines)
        texts.append(f"## Frozen features, top-1 (%): {part}\n\n{text}\n")
    return "\n".join(texts)


def _collected(results: list[dict], columns: Sequence[dict], by_dataset: bool = True) -> dict[str, dict[str, Cells]]:
    """The results of a table: dataset -> row -> index of the column -> a list for each seed."""
    found = defaultdict(lambda: defaultdict(list))
    for result in results:
        for index, column in enumerate(columns):
            if figure(result, column) is not None:
                found[set_of(result) if by_dataset else ""][index].append(result)
    parts = {}
    for part, members in found.items():
        rows = parts[part] = defaultdict(dict)
        for index, of_column in members.items():
            for name, seeds in rows_of(of_column).items():
                rows[name][index] = seeds
    return parts


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


def _starts_of(result: dict) -> list[dict]:
    """Fine-tuning from packed and from latent weights, as one result each; others as they are.

    The first start has the network's own row, because its figure is the result's.
    """
    starts = (result.get("extra") or {}).get("starts") or {}
    return [result, *(
        {**result, "value": starts[name]["top1"], "extra": {"top5": starts[name]["top5"]}, "start": name}
        for name in list(starts)[1:]
    )]


def _cells(cells: Cells, columns: Sequence[dict]) -> list[str]:
    return [
        spread([_of_seed(same, column) for same in cells[index]]) if index in cells else ""
        for index, column in enumerate(columns)
    ]


def _of_seed(results: list[dict], column: dict) -> Figure:
    """The figure of one seed: weights that were measured several times count once, with the mean."""
    known = [value for value in (figure(result, column) for result in results) if value != "n/a"]
    if len(known) < 2:
        return known[0] if known else "n/a"
    return mean(value.mean if isinstance(value, Spread) else value for value in known)


def spread(values: Sequence[Figure]) -> str:
    """Mean ± standard deviation (n - 1) over the values; "n/a" where none is known.

    A single value has no deviation, or that of its draws; a text stands as it is.
    """
    known = [value for value in values if value != "n/a"]
    if not known:
        return "n/a"
    if len(known) > 1:
        means = [value.mean if isinstance(value, Spread) else value for value in known]
        return f"{mean(means):.2f} ± {stdev(means):.2f}"
    (value,) = known
    if isinstance(value, Spread):
        return f"{value.mean:.2f} ± {value.std:.2f}"
    return value if isinstance(value, str) else f"{value:.2f}"


def _mean(seeds: list[list[dict]]) -> float:
    return mean(mean(result["value"] for result in same) for same in seeds) if seeds else 0.0


def _seeds_and_cost(cells: Cells) -> list[str]:
    """Number of seeds, and minutes and memory of training on average, of the column with the most seeds."""
    seeds = max(cells.values(), key=len)
    trainings = [same[0].get("training") or {} for same in seeds]
    costs = []
    for entry, unit in (("train_seconds", 60), ("peak_memory_bytes", 1e9)):
        spent = [training[entry] / unit for training in trainings if training.get(entry)]
        costs.append(f"{mean(spent):.1f}" if spent else "")
    return [str(len(seeds)), *costs]
