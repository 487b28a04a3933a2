"""The figures of a card: this network's results beside those of raw pixels and of the untrained network."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

from huggingface_hub import EvalResult

from .. import tables
from ..errors import BurnError
from ..evals.results import read_results
from ..provenance import file_sha256
from .terms import Terms, public, terms_of

# What differs between networks under one protocol.
_OF_A_NETWORK = {
    "weights", "engine", "features_of", "parameters", "transform", "feature_dim", "calibrated_batchnorm", "device",
    "seed", "starts",
}
_TASKS = {
    "knn": "kNN", "linear": "linear probe", "transfer": "transfer, linear", "finetune": "fine-tuning", "svm": "SVM",
    "detection": "detection",
}
_RESULT = {"task", "value", "model", "protocol", "dataset"}
_KEPT = (*sorted(_RESULT), "checkpoint", "command", "training", "file")  # what a card is rendered from
COMPARED = {"pixels": "raw pixels", "untrained": "untrained"}


@dataclass
class Row:
    """A result of this network, and those of the pixels and of the untrained network under the same protocol."""

    result: dict
    pixels: list[dict] = field(default_factory=list)
    untrained: list[dict] = field(default_factory=list)

    @property
    def task(self) -> str:
        protocol = self.result["protocol"]
        words = _TASKS.get(self.result["task"], self.result["task"])
        if self.result["task"] == "finetune":
            words += f" with {protocol.get('fraction', 1):.0%} of the labels"
        if protocol.get("full") == "left out":
            words += ", low-shot"
        return f"{words}, {'top-1' if str(protocol.get('metric', '')).startswith('top-1') else 'mAP'}"

    @property
    def terms(self) -> Terms | None:
        """Of the data; the name `folder` says nothing, but the description names the folder."""
        dataset = self.result["dataset"]
        return terms_of(dataset["name"]) or terms_of(str(dataset.get("description", "")))

    @property
    def data(self) -> str:
        return self.terms.name if self.terms else self.result["dataset"]["name"].rstrip("/").rsplit("/", 1)[-1]

    @property
    def images(self) -> str:
        """`50,000 training and 10,000 test images`, with the whole where it is a part."""
        train, test = self.result["dataset"]["train"], self.result["dataset"]["test"]
        if test.get("images") is None:
            return "a validation split"
        train = " + ".join(map(_count, train if isinstance(train, list) else [train]))
        return f"{train} training and {_count(test)} test images"

    def eval_result(self) -> EvalResult:
        """As the Hub's model-index has it; in per cent."""
        detection = self.result["task"] == "detection"
        known = self.terms.hub_id if self.terms else None
        return EvalResult(
            task_type="object-detection" if detection else "image-classification",
            # the Hub takes letters, digits, dots, hyphens and underscores
            dataset_type=known or re.sub(r"[^a-z0-9._]+", "-", self.data.lower()).strip("-") or "images",
            dataset_name=self.data, dataset_split=self.result["dataset"]["test"].get("split"),
            metric_type="accuracy" if self.task.endswith("top-1") else "map",
            metric_value=round(100 * self.result["value"], 2), metric_name=f"{self.task} (%)",
        )


def kept_results(paths: Iterable[Path]) -> list[dict]:
    """The results in some files of eval_downstream.py as card.json keeps them: what a card needs, and no paths of ours.

    Raises:
        BurnError: A file cannot be read, or none holds a result.
    """
    results = [{**result, "file": Path(result["file"]).name} for result in read_results(paths)]
    return [{name: result[name] for name in _KEPT if name in result} for result in results]


def is_result(value: object) -> bool:
    """Whether a JSON value is a result of eval_downstream.py."""
    return isinstance(value, dict) and value.keys() >= _RESULT and all(
        isinstance(value[name], dict) for name in ("protocol", "dataset"))


def rows_of_results(results: Iterable[dict], weights: Path, architecture: str) -> list[Row]:
    """Rows of a card: this network's results, told by the hash of its weights, each with its comparisons.

    Raises:
        BurnError: A result is about other weights, or is compared with none of this network's results.
    """
    digest = file_sha256(weights)
    own, others = [], []
    for result in results:
        checkpoint = result.get("checkpoint") or {}
        if checkpoint.get("sha256") == digest:
            own.append(result)
        elif kind := _comparison(result, architecture):
            others.append((kind, result))
        else:
            measured = checkpoint.get("path") or result["protocol"].get("weights") or result["model"]
            raise BurnError(f"{result['file']}: measured on {measured}, which is not {weights}; leave it out")
    return _rows(own, others)


def _rows(own: Iterable[dict], others: Iterable[tuple[str, dict]]) -> list[Row]:
    rows = [Row(result) for result in own]
    for kind, result in others:
        beside = [row for row in rows if _protocol(row.result) == _protocol(result)]
        if not beside:
            raise BurnError(
                f"{result['file']}: no result of this network has the same task, data and protocol; "
                "give it too, or leave this one out"
            )
        for row in beside:
            getattr(row, kind).append(result)
    return rows


def _comparison(result: dict, architecture: str) -> str | None:
    """`pixels`, `untrained`, or None for a network with weights."""
    if result["model"] == "pixels":
        return "pixels"
    weights = str(result["protocol"].get("weights", ""))
    if result.get("checkpoint") is not None or not weights.startswith(("random", "untrained")):
        return None
    if result["task"] != "finetune" and "calibrated_batchnorm" not in result["protocol"]:  # it trains them
        raise BurnError(
            f"{result['file']}: an untrained network without calibrated BatchNorm is no fair comparison; "
            "measure it with --calibrate-bn 4096, or leave it out"
        )
    if result["model"].partition(".")[0] != architecture:
        raise BurnError(f"{result['file']}: of an untrained {result['model']}, not of {architecture}; leave it out")
    return "untrained"


def _protocol(result: dict) -> str:
    dataset = result["dataset"]
    kept = {key: value for key, value in result["protocol"].items() if key not in _OF_A_NETWORK}
    return json.dumps([result["task"], dataset["name"], dataset["train"], dataset["test"], kept], sort_keys=True)


def rows_of_run(details: dict) -> list[Row]:
    """The same from the kNN figures in a run's own summary, where it has some."""
    if "knn_student" not in details:
        return []
    bank, queries = details.get("knn_images") or (None, None)
    name = details.get("settings", {}).get("dataset") or str(details.get("val_dataset")).partition(" [")[0]

    def result(kind: str) -> dict:
        return {
            "task": "knn", "value": details[f"knn_{kind}"], "model": kind, "file": "training.json",
            "protocol": {
                "method": "weighted kNN, measured at the end of the run", "k": min(20, bank or 20),
                "temperature": 0.07, "metric": "top-1 accuracy, fraction", "tested on": details["val_dataset"],
            },
            "dataset": {"name": name, "train": {"images": bank}, "test": {"images": queries}},
        }

    return _rows([result("student")], [(kind, result(kind)) for kind in COMPARED if f"knn_{kind}" in details])


def in_words(row: Row) -> str:
    """How good a result is, beside what was compared, in words for readers who do not know the tasks."""
    by = {"knn": "nearest neighbours give", "linear": "a linear classifier gives"}.get(row.result["task"])
    value = f"{100 * row.result['value']:.1f}"
    compared = [f"{words} {100 * mean(result['value'] for result in getattr(row, kind)):.1f}"
                for kind, words in {"pixels": "raw pixels", "untrained": "the network untrained"}.items()
                if getattr(row, kind)]
    said = f"{by} {value} of 100 test pictures the right class" if by else f"{row.task} is {value} %"
    return f"on {row.data}, {said}" + (f" ({', '.join(compared)})" if compared else "")


def figures_table(rows: Sequence[Row]) -> str:
    """Markdown: a line a result, in per cent, the margins over what was compared first."""
    kinds = [kind for kind in COMPARED if any(getattr(row, kind) for row in rows)]
    lines = []
    for row in rows:
        value, margins, others = 100 * row.result["value"], [], []
        for kind in kinds:
            compared = [100 * result["value"] for result in getattr(row, kind)]
            spread = f" ± {stdev(compared):.2f}" if len(compared) > 1 else ""
            margins.append(f"**{value - mean(compared):+.2f}**" if compared else "")
            others.append(f"{mean(compared):.2f}{spread}" if compared else "")
        lines.append([row.task, f"{row.data}, {row.images}", *margins, f"{value:.2f}", *others])
    words = [COMPARED[kind] for kind in kinds]
    return tables.markdown(["task", "data", *(f"over {word}" for word in words), "this network", *words], lines, 2)


def protocols(rows: Sequence[Row]) -> str:
    """Markdown: how each figure came about, and its command."""
    parts = []
    for row in rows:
        protocol = row.result["protocol"]
        words = [f"{key.replace('_', ' ')} {_words(value)}" for key, value in protocol.items()
                 if key != "method" and key not in _OF_A_NETWORK]
        if "input_size" in (transform := protocol.get("transform") or {}):
            words.append(f"{transform['input_size'][-1]} px, crop {transform.get('crop_pct', 1)}")
        if engine := protocol.get("engine"):
            words.append(f"features by {engine['name']}")
        if (seed := protocol.get("seed")) is not None:
            words.append(f"seed {seed}")
        text = f"* **{row.task}, {row.data}**: {protocol.get('method', row.result['task'])}; {'; '.join(words)}."
        parts.append(text + (f"\n  `{row.result['command']}`" if row.result.get("command") else ""))
    return public("\n".join(parts))


def _count(part: dict) -> str:
    whole = part.get("of")
    return f"{part['images']:,}" + (f" of {whole:,}" if whole not in (None, part["images"]) else "")


def _words(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(map(_words, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
