"""The figures of a card: this network's results beside those of raw pixels and of the untrained network."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import EvalResult

from ..errors import BurnError
from ..evals.tables import spread
from ..provenance import file_sha256
from .terms import Terms, terms_of

# What differs between networks under one protocol.
_OF_A_NETWORK = {
    "weights", "engine", "features_of", "parameters", "transform", "feature_dim", "calibrated_batchnorm", "device",
    "seed", "starts",
}
# Results of earlier versions: what they did not say, because there was no choice, and what they worded otherwise.
_ONCE_IMPLIED = {"linear": {"probe": "linear classifier", "views": "centre crop"}}
_REWORDED = {"lr_schedule"}
_TASKS = {
    "knn": "kNN", "linear": "linear probe", "transfer": "transfer, linear", "finetune": "fine-tuning", "svm": "SVM",
    "detection": "detection",
}


@dataclass
class Row:
    """A result of this network, and those of the pixels and of the untrained network under the same protocol."""

    result: dict
    pixels: list[dict] = field(default_factory=list)
    untrained: list[dict] = field(default_factory=list)

    @property
    def task(self) -> str:
        protocol, metric = self.result["protocol"], str(self.result["protocol"].get("metric", ""))
        words = _TASKS.get(self.result["task"], self.result["task"])
        if self.result["task"] == "finetune":
            words += f" with {protocol.get('fraction', 1):.0%} of the labels"
        if protocol.get("full") == "left out":
            words += ", low-shot"
        return f"{words}, {'top-1' if metric.startswith('top-1') else 'mAP'}"

    @property
    def data(self) -> str:
        return self.terms.name if self.terms else self.result["dataset"]["name"].rstrip("/").rsplit("/", 1)[-1]

    @property
    def terms(self) -> Terms | None:
        """Of the data; the name `folder` says nothing, but the description names the folder."""
        dataset = self.result["dataset"]
        return terms_of(dataset["name"]) or terms_of(str(dataset.get("description", "")))

    @property
    def images(self) -> str:
        """`50,000 training and 10,000 test images`, with the whole where it is a part."""
        dataset = self.result["dataset"]
        train = dataset["train"] if isinstance(dataset["train"], list) else [dataset["train"]]
        if dataset["test"].get("images") is None:
            return "a validation split"
        parts = (" + ".join(map(_count, train)), "training"), (_count(dataset["test"]), "test")
        return " and ".join(f"{count} {name}" for count, name in parts) + " images"

    def eval_result(self) -> EvalResult:
        """As the Hub's model-index has it; in per cent."""
        detection = self.result["task"] == "detection"
        return EvalResult(
            task_type="object-detection" if detection else "image-classification",
            dataset_type=self.terms.hub_id if self.terms and self.terms.hub_id else _slug(self.data),
            dataset_name=self.data, dataset_split=self.result["dataset"]["test"].get("split"),
            metric_type="accuracy" if self.task.endswith("top-1") else "map",
            metric_value=round(100 * self.result["value"], 2), metric_name=f"{self.task} (%)",
        )


def rows_of_results(results: Iterable[dict], weights: Path, architecture: str) -> list[Row]:
    """Rows of a card from results as `read_results` gives them: this network's, by its weights, and comparisons.

    Raises:
        BurnError: a result is about other weights, or is compared with none of this network's results.
    """
    digest = file_sha256(weights)
    own, others = [], []
    for result in results:
        checkpoint = result.get("checkpoint") or {}
        if checkpoint.get("sha256") == digest:
            own.append(result)
        elif kind := _comparison(result):
            others.append((kind, result))
        else:
            measured = checkpoint.get("path") or result["protocol"].get("weights") or result["model"]
            raise BurnError(f"{result['file']}: measured on {measured}, which is not {weights}; leave it out")
    return rows_of(own, others, architecture)


def rows_of(own: Iterable[dict], others: Iterable[tuple[str, dict]], architecture: str) -> list[Row]:
    """This network's results with the comparisons that share their protocol; each of `others` is (kind, result)."""
    rows = [Row(result) for result in own]
    for kind, result in others:
        if kind == "untrained" and result["model"].partition(".")[0] != architecture:
            raise BurnError(f"{result['file']}: of an untrained {result['model']}, not of {architecture}; leave it out")
        beside = [row for row in rows if _protocol(row.result) == _protocol(result)]
        if not beside:
            raise BurnError(
                f"{result['file']}: no result of this network has the same task, data and protocol; "
                "give it too, or leave this one out"
            )
        for row in beside:
            getattr(row, kind).append(result)
    return rows


def rows_of_run(details: dict, architecture: str) -> list[Row]:
    """The same from the kNN figures in a run's own summary, where it has some."""
    if "knn_student" not in details:
        return []
    bank, queries = details.get("knn_images") or (None, None)

    def result(name: str, model: str) -> dict:
        dataset = details.get("settings", {}).get("dataset") or str(details.get("val_dataset")).partition(" [")[0]
        return {
            "task": "knn", "value": details[f"knn_{name}"], "model": model, "file": "training.json",
            "protocol": {
                "method": "weighted kNN, measured at the end of the run", "k": min(20, bank or 20),
                "temperature": 0.07, "metric": "top-1 accuracy, fraction", "tested on": details["val_dataset"],
            },
            "dataset": {"name": dataset, "train": {"images": bank, "of": bank},
                        "test": {"images": queries, "of": queries}},
        }

    others = [(kind, result(kind, architecture)) for kind in ("pixels", "untrained") if f"knn_{kind}" in details]
    return rows_of([result("student", architecture)], others, architecture)


def figures_table(rows: list[Row]) -> str:
    """Markdown: a line a result, in per cent, with the margins over what was compared."""
    tuned = any(row.untrained for row in rows if row.result["task"] == "finetune")
    untrained = "untrained, BatchNorm calibrated" + (" (by fine-tuning: trained)" if tuned else "")
    kinds = {"pixels": "raw pixels", "untrained": untrained}
    kinds = {kind: heading for kind, heading in kinds.items() if any(getattr(row, kind) for row in rows)}
    head = ["task", "data", "this network"] + [cell for heading in kinds.values() for cell in (heading, "margin")]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * 3 + "---|---|" * len(kinds)]
    for row in rows:
        value = 100 * row.result["value"]
        cells = [row.task, f"{row.data}, {row.images}", f"**{value:.2f}**"]
        for kind in kinds:
            compared = [100 * result["value"] for result in getattr(row, kind)]
            mean = sum(compared) / len(compared) if compared else 0
            cells += [spread(compared), f"{value - mean:+.2f}"] if compared else ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def without_baseline(rows: list[Row]) -> str:
    """A sentence about the results that were given alone; empty where each stands beside something."""
    alone = [f"{row.task}, on {row.data}" for row in rows if not row.pixels and not row.untrained]
    if not alone:
        return ""
    return f"No baseline (the untrained network, raw pixels) was given, so there is no margin, for: {'; '.join(alone)}."


def protocols(rows: list[Row]) -> str:
    """Markdown: how each figure came about, and its command."""
    parts = []
    for row in rows:
        protocol = {key: value for key, value in row.result["protocol"].items() if key not in _OF_A_NETWORK}
        words = [f"{key.replace('_', ' ')} {_words(value)}" for key, value in protocol.items() if key != "method"]
        transform = row.result["protocol"].get("transform") or {}
        if "input_size" in transform:
            words.append(f"{transform['input_size'][-1]} px, crop {transform.get('crop_pct', 1)}")
        if engine := row.result["protocol"].get("engine"):
            words.append(f"features by {engine['name']}")
        seed = row.result["protocol"].get("seed")
        words += [] if seed is None else [f"seed {seed}"]
        text = f"* **{row.task}, {row.data}**: {protocol.get('method', row.result['task'])}; {'; '.join(words)}."
        if row.result.get("command"):
            text += f"\n  `{row.result['command']}`"
        parts.append(text)
    return "\n".join(parts)


def _slug(name: str) -> str:
    """A name in the characters that the Hub takes for a data set's."""
    return re.sub(r"[^a-z0-9._]+", "-", name.lower()).strip("-") or "images"


def _comparison(result: dict) -> str | None:
    """`pixels`, `untrained`, or None for a network with weights."""
    if result["model"] == "pixels":
        return "pixels"
    weights = str(result["protocol"].get("weights", ""))
    if result.get("checkpoint") is None and weights.startswith(("random", "untrained")):
        if result["task"] != "finetune" and "calibrated_batchnorm" not in result["protocol"]:  # it trains them
            raise BurnError(
                f"{result['file']}: an untrained network without calibrated BatchNorm is no fair comparison; "
                "measure it with --calibrate-bn 4096, or leave it out"
            )
        return "untrained"
    return None


def _protocol(result: dict) -> str:
    dataset = result["dataset"]
    settings = {**_ONCE_IMPLIED.get(result["task"], {}), **result["protocol"]}
    kept = {key: value for key, value in settings.items() if key not in _OF_A_NETWORK | _REWORDED}
    return json.dumps([result["task"], dataset["name"], dataset["train"], dataset["test"], kept], sort_keys=True)


def _count(part: dict) -> str:
    whole = part.get("of")
    return f"{part['images']:,}" + (f" of {whole:,}" if whole not in (None, part["images"]) else "")


def _words(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(map(_words, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
