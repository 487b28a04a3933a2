"""The paper's tables (`paper.yaml`) with our results in them: `eval_downstream.py table results/*.jsonl`.

A row is one network, measured in one way; the figures of its seeds become mean ± standard deviation. The paper's own
figures stand beside ours only where the protocol is the same.
"""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from ..errors import BurnError
from ..methods import METHODS
from ..tables import markdown
from .results import cell, dataset_key, entry, measured_how, row_of, without_seed

TABLES: dict[int, dict] = yaml.safe_load(Path(__file__).with_name("paper.yaml").read_text(encoding="utf-8"))
LINEAR = {"heading": "linear", "task": "linear", "figure": "value"}
_COMPARED = [{"heading": "kNN", "task": "knn", "figure": "value"}, LINEAR]
_METHODS = {
    "burn": "BURN", "s2bnn": "S2-BNN", "byol": "BYOL", "swav": "SwAV", "mocov2": "MoCo v2", "simclr": "SimCLR",
    "infomin": "InfoMin", "supervised": "supervised", "supervised_kl": "supervised, soft labels",
}
# The paper's settings (it states no temperature: the released code's), and the words for another value of each.
_PAPERS = {**METHODS["burn"].options(), "temperature": 0.2, "reset_target_head": False}
_PAPERS_LAMBDA = {"cosine": (0.9, 0.7), "constant": (0.7,), "step": ()}  # first and last; a step is from 1 to 0
_DEPARTURES = {
    "lambda_schedule": "{} lambda",
    "fs_loss": "L_FS {}",
    "fs_on": "L_FS on {}",
    "adapter": "MLP adapter",
    "target_head": "{} target head",
    "information_weight": "information term {:g}",
    "kl_direction": "KL reversed",
    "temperature": "temperature {:g}",
    "views": "{} views",
    "teacher_norm": "teacher's BatchNorm by {}",
    "reset_target_head": "fresh target head",
}
_STAGES = ["w32a1", "w1a1"]
Row = tuple[str, str]  # the name of its results, and the network in words
Cells = dict[int, list[dict]]  # results of a column, by its index: one a seed


def all_tables(results: list[dict]) -> str:
    """Markdown of the comparison of frozen features and of the paper's tables that the results have figures for, and
    the names of the results that stand in none of them.

    Raises:
        BurnError: There is none.
    """
    parts = [comparison_table(results), *(paper_table(number, results) for number in TABLES)]
    text = "\n".join(part for part in parts if part)
    if not text:
        raise BurnError("the results have no figure for the paper's tables")
    columns = [*_COMPARED, *(column for table in TABLES.values() for column in table["columns"])]
    left_out = [f"{result['file']} ({result['task']} on {_data(result)})" for result in results
                if all(figure(start, column) is None for start in _starts_of(result) for column in columns)]
    return f"{text}\nIn no table: {', '.join(left_out)}.\n" if left_out else text


def paper_table(number: int, results: list[dict]) -> str:
    """Markdown of one of the paper's tables, a part for each dataset; empty where no result belongs to it."""
    table = TABLES[number]
    columns = table["columns"]
    if number in (5, 6, 7):  # ablations of BURN
        results = [result for result in results if entry(result, "training.method") == "burn"]
    texts = []
    for part, rows in collected(results, columns, by_dataset=number != 4).items():
        measured = {index for cells in rows.values() for index in cells}
        same = {index for cells in rows.values() for index, seeds in cells.items()
                if any(same_protocol(number, result) for result in seeds)}
        lines = [
            ["the paper's figures", name, *(
                (value if isinstance(value, str) else f"{value:.2f}") if index in same or index not in measured else ""
                for index, value in enumerate(values)
            )] for name, values in (table["rows"] if same else {}).items()
        ]
        lines += [[*row, *_cells(rows[row], columns)] for row in sorted(rows)]
        text = markdown(["row", "network", *(column["heading"] for column in columns)], lines, 2)
        texts.append(f"{part}\n\n{text}\n".lstrip())
    return "\n".join([f"## Table {number}: {table['caption']} (%)\n", *texts]) if texts else ""


def comparison_table(results: list[dict]) -> str:
    """Markdown: kNN and linear evaluation of every network, best first, with the cost of its training, by dataset."""
    def best_first(row: tuple[Row, Cells]) -> list[float]:
        return [-mean([result["value"] for result in row[1].get(index, [])] or [0]) for index in (1, 0)]

    texts = []
    for part, rows in collected(results, _COMPARED).items():
        lines = [[*row, *_cells(cells, _COMPARED), *_seeds_and_cost(cells)]
                 for row, cells in sorted(rows.items(), key=best_first)]
        text = markdown(["row", "network", "kNN", "linear", "seeds", "minutes", "memory, GB"], lines, 2)
        texts.append(f"## Frozen features, top-1 (%): {part}\n\n{text}\n")
    return "\n".join(texts)


def summary(result: dict) -> str:
    """The figures of the paper's tables that one result has, in per cent, for the terminal."""
    found = {f"{column['heading']}{start.get('start', '')}": figure(start, column) for start in _starts_of(result)
             for table in TABLES.values() for column in table["columns"]}
    found["top-5"] = entry(result, "extra.top5")
    return "; ".join(f"{heading}: {cell([value])}" for heading, value in found.items() if value is not None)


def collected(results: list[dict], columns: Sequence[dict], by_dataset: bool = True) -> dict[str, dict[Row, Cells]]:
    """The results of a table: dataset -> row -> index of the column -> one a seed.

    Where the results of a row were measured in several ways, each way has a row of its own. All in a row are of one
    network, BatchNorm statistics included, and of images of the same size and crop.
    """
    found: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(list))))
    for result in itertools.chain.from_iterable(map(_starts_of, results)):
        for index, column in enumerate(columns):
            if figure(result, column) is not None:
                row = row_of(result) + result.get("start", ""), network(result)
                at = [result["protocol"].get(name) for name in ("transform", "calibrated_batchnorm")]
                key = *row, json.dumps(at, sort_keys=True)
                way = measured_how(result), entry(result, "protocol.engine.name")
                found[_data(result) if by_dataset else ""][key][index][way].append(result)
    parts: dict[str, dict[Row, Cells]] = {}
    for part, rows in found.items():
        parts[part] = defaultdict(dict)
        taken: Counter[Row] = Counter()
        for (name, words, _), of_column in rows.items():
            for index, ways in of_column.items():
                for number, seeds in enumerate(ways.values(), start=taken[name, words] + 1):
                    row = f"{name}, protocol {number}" if number > 1 else name
                    parts[part][row, words][index] = seeds
            taken[name, words] += max(map(len, of_column.values()))
    return parts


def figure(result: dict, column: dict) -> Any:
    """A column's figure of a result; None where the column is about something else."""
    if result["task"] != column["task"]:
        return None
    if "dataset" in column and dataset_key(result["dataset"]["name"]) != column["dataset"]:
        return None
    if "fraction" in column and result["protocol"].get("fraction") != column["fraction"]:
        return None
    return entry(result, column["figure"])


def _starts_of(result: dict) -> list[dict]:
    """Fine-tuning from packed and from latent weights, as one result each; others as they are."""
    starts = entry(result, "extra.starts") or {}
    return [result, *(
        {**result, "value": starts[name]["top1"], "extra": {"top5": starts[name]["top5"]},
         "start": f", from {name} weights"}
        for name in list(starts)[1:]  # the result's own figure is that of the first
    )]


def _cells(cells: Cells, columns: Sequence[dict]) -> list[str]:
    return [cell([figure(result, column) for result in cells[index]]) if index in cells else ""
            for index, column in enumerate(columns)]


def _seeds_and_cost(cells: Cells) -> list[str]:
    """Number of seeds, and minutes and memory of training on average, of the column with the most seeds."""
    seeds = max(cells.values(), key=len)
    costs = []
    for name, unit in (("train_seconds", 60), ("peak_memory_bytes", 1e9)):
        spent = [cost / unit for result in seeds if (cost := entry(result, f"training.{name}"))]
        costs.append(f"{mean(spent):.1f}" if spent else "")
    return [str(len(seeds)), *costs]


def _data(result: dict) -> str:
    """The data of a result, in words."""
    dataset = result["dataset"]
    if isinstance(dataset.get("train"), list):  # detection: several sets
        train = " + ".join(f"{part['split']}, {part['images']:,} images" for part in dataset["train"])
        return f"{dataset['name']}: {train}; test {dataset['test']['split']}, {dataset['test']['images']:,} images"
    return dataset.get("description") or dataset["name"]


def network(result: dict) -> str:
    """The network of a result and how it was trained, in words."""
    training, model = result.get("training"), result["model"]
    if training:
        budget = f"{training['max_steps']} steps" if training.get("max_steps") else f"{training.get('epochs')} epochs"
        return f"{row_name(training)} ({training['model']}, {training.get('img_size')} px, {budget} a stage)"
    if model == "pixels":
        return "raw pixels"
    untrained = str(result["protocol"].get("weights", "")).startswith("random")
    calibrated = ", BatchNorm calibrated" if "calibrated_batchnorm" in result["protocol"] else ""
    return f"untrained {model}{calibrated}" if untrained else without_seed(model)


def row_name(training: dict) -> str:
    """The row of the paper's tables that a run belongs to; what differs from the paper's BURN is added in words."""
    method, settings = training.get("method"), dict(training.get("settings", {}))
    parts = [_METHODS.get(method, str(method))]
    if method == "s2bnn" and settings.get("contrastive_weight"):
        parts.append("contrastive too")
    if method == "burn":
        ends = settings.get("lambda_0", 0.9), settings.get("lambda_T", 0.7)
        if ends in ((0, 0), (1, 1)):  # then the schedule has no effect
            parts.append("L_FS alone" if ends == (1, 1) else "KL alone")
            settings.pop("lambda_schedule", None)
            if ends == (1, 1):  # nor has what the KL needs
                settings.pop("temperature", None)
        else:
            papers = _PAPERS_LAMBDA[settings.get("lambda_schedule", "cosine")]
            if ends[: len(papers)] != papers:
                parts.append("lambda " + " to ".join(f"{end:g}" for end in ends[: len(papers)]))
        for name, words in _DEPARTURES.items():
            if settings.get(name) not in (None, _PAPERS[name]):
                parts.append(words.format(settings[name]))
    stages = training.get("stages") or _STAGES
    if stages != _STAGES:
        parts.append("one stage" if stages == ["w1a1"] else f"stages {' '.join(stages)}")
    return ", ".join(parts)


def same_protocol(number: int, result: dict) -> bool:
    """Whether the paper's figures of a table may stand beside a result.

    They may where the network is a 1-bit ReActNet-A as it was trained, on the whole of ImageNet at 224 px, and was
    evaluated on all of the paper's images in the way that `paper.yaml` states.
    """
    training, protocol, dataset = result.get("training") or {}, _flat(result["protocol"]), result["dataset"]
    published = TABLES[number].get("published", {})
    key = result["task"]
    if key == "transfer":
        key = dataset_key(dataset["name"])
    elif key == "finetune":
        key += f" {protocol.get('fraction')}"
    found = published.get(key)
    same_network = (training.get("model") in ("reactnet_a", "reactnet_a_burn") and training.get("img_size") == 224
                    and (training.get("stages") or [])[-1:] == ["w1a1"]
                    and "calibrated_batchnorm" not in result["protocol"]
                    and "1,281,167 images" in str(training.get("dataset")))
    if found is None or not same_network:
        return False
    wanted = _flat(found)
    return _images(result) == wanted.pop("images") and all(
        name in protocol and _like(protocol[name], value) for name, value in wanted.items()
    )


def _images(result: dict) -> list[int] | None:
    """Numbers of training and test images; None where only a part of a set was used."""
    train, test = result["dataset"]["train"], result["dataset"]["test"]
    if result["task"] == "detection":  # several training sets
        return [sum(part["images"] for part in train), test["images"]]
    if test["images"] != test["of"] or (train["images"] != train["of"] and result["task"] != "finetune"):
        return None
    return [train["of"], test["images"]]


def _like(value: Any, wanted: Any) -> bool:
    return fnmatchcase(value, wanted) if isinstance(value, str) and isinstance(wanted, str) else value == wanted


def _flat(nested: dict, prefix: str = "") -> dict[str, Any]:
    """Nested entries under one dotted name: `{"a": {"b": 1}}` becomes `{"a.b": 1}`."""
    flat = {}
    for name, value in nested.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
