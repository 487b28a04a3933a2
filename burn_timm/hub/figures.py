"""The figures of a card: this network's results beside those of raw pixels and of the untrained network."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from huggingface_hub import EvalResult

from .. import tables
from ..errors import BurnError
from ..evals.knn import NEIGHBOURS, TEMPERATURE
from ..evals.results import cell, entry, measured_how
from ..provenance import file_sha256
from .terms import Terms, public, terms_of

_TASKS = {
    "knn": "kNN", "linear": "linear probe", "transfer": "transfer, linear", "finetune": "fine-tuning", "svm": "SVM",
    "detection": "detection",
}
_SAID = {"knn": "nearest neighbours give", "linear": "a linear classifier gives"}
COMPARED = {"pixels": "raw pixels", "untrained": "untrained"}
LEAST_CALIBRATED = 1000  # images that give BatchNorm of an untrained network its statistics


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
        """Of the data, told by its name, or for `--dataset folder` by the folder in its description."""
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

    def percent(self, kind: str) -> float | None:
        """The mean of what was compared, `pixels` or `untrained`; None where nothing was."""
        compared = getattr(self, kind)
        return 100 * mean(result["value"] for result in compared) if compared else None

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

    def in_words(self) -> str:
        """How good the result is, beside what was compared, for readers who do not know the tasks."""
        by, value = _SAID.get(self.result["task"]), f"{100 * self.result['value']:.1f}"
        said = f"{by} {value} of 100 test pictures the right class" if by else f"{self.task} is {value} %"
        names = {"pixels": "raw pixels", "untrained": "the network untrained"}
        compared = [f"{name} {self.percent(kind):.1f}" for kind, name in names.items() if getattr(self, kind)]
        return f"on {self.data}, {said}" + (f" ({', '.join(compared)})" if compared else "")


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
        beside = [row for row in rows if measured_how(row.result) == measured_how(result)
                  and (kind == "pixels" or _size(row.result) == _size(result))]  # pixels have a size of their own
        if not beside:
            raise BurnError(
                f"{result['file']}: no result of this network has the same task, data and protocol"
                f"{'' if kind == 'pixels' else ', and the same input size'}; give it too, or leave this one out"
            )
        for row in beside:
            getattr(row, kind).append(result)
    return rows


def _size(result: dict) -> list:
    return [entry(result, f"protocol.transform.{name}") for name in ("input_size", "squash_to")]


def _comparison(result: dict, architecture: str) -> str | None:
    """`pixels`, `untrained`, or None for a network with weights."""
    if result["model"] == "pixels":
        return "pixels"
    weights = str(result["protocol"].get("weights", ""))
    if result.get("checkpoint") is not None or not weights.startswith("random"):
        return None
    calibrated = entry(result, "protocol.calibrated_batchnorm.images") or 0
    if result["task"] != "finetune" and calibrated < LEAST_CALIBRATED:  # fine-tuning trains BatchNorm
        raise BurnError(
            f"{result['file']}: an untrained network with BatchNorm calibrated on {calibrated} images (fewer than "
            f"{LEAST_CALIBRATED:,}) is no fair comparison; measure it with --calibrate-bn 4096, or leave it out"
        )
    if result["model"].partition(".")[0] != architecture:
        raise BurnError(f"{result['file']}: of an untrained {result['model']}, not of {architecture}; leave it out")
    return "untrained"


def rows_of_run(details: dict) -> list[Row]:
    """The same from the kNN figures in a run's own summary, where it has some."""
    if "knn_student" not in details:
        return []
    bank, queries = details.get("knn_images") or (None, None)
    name = details.get("settings", {}).get("dataset") or str(details.get("val_dataset")).partition(" [")[0]

    k = min(NEIGHBOURS, bank or NEIGHBOURS)
    method = f"weighted kNN at the end of the run, k {k}, temperature {TEMPERATURE}, tested on {details['val_dataset']}"

    def result(kind: str) -> dict:
        return {
            "task": "knn", "value": details[f"knn_{kind}"], "model": kind, "file": "training.json",
            "protocol": {"method": method, "metric": "top-1 accuracy, fraction"},
            "dataset": {"name": name, "train": {"images": bank}, "test": {"images": queries}},
        }

    return _rows([result("student")], [(kind, result(kind)) for kind in COMPARED if f"knn_{kind}" in details])


def figures_table(rows: Sequence[Row]) -> str:
    """Markdown: a line a result, in per cent, the margins over what was compared first."""
    kinds = [kind for kind in COMPARED if any(getattr(row, kind) for row in rows)]
    lines = []
    for row in rows:
        value = 100 * row.result["value"]
        means = [row.percent(kind) for kind in kinds]
        margins = ["" if compared is None else f"**{value - compared:+.2f}**" for compared in means]
        others = [cell([result["value"] for result in getattr(row, kind)] or [""]) for kind in kinds]
        lines.append([row.task, f"{row.data}, {row.images}", *margins, f"{value:.2f}", *others])
    words = [COMPARED[kind] for kind in kinds]
    return tables.markdown(["task", "data", *(f"over {word}" for word in words), "this network", *words], lines, 2)


def commands(rows: Sequence[Row], tag: str | None = None) -> str:
    """Markdown: how each figure was measured; its command prints all of the protocol.

    tag: The name of timm's that these weights have: the default of their architecture, which a command may name, may be
        others by now.
    """
    parts = []
    for row in rows:
        text = f"* {row.task}, {row.data}: {row.result['protocol'].get('method', row.result['task'])}"
        command = row.result.get("command")
        if command and tag and "--pretrained" in command:
            command = re.sub(r"--model \S+", f"--model {tag}", command)
        parts.append(text + (f"\n  `{command}`" if command else ""))
    return public("\n".join(parts))


def _count(part: dict) -> str:
    whole = part.get("of")
    return f"{part['images']:,}" + (f" of {whole:,}" if whole not in (None, part["images"]) else "")
