"""EXPERIMENTS.md compares methods at equal budget, and its costs and tuning trials are what was measured."""

import json
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
ROWS = {
    "burn": "BURN", "s2bnn": "S2-BNN", "s2bnn_contrastive": "S2-BNN, contrastive too", "byol": "BYOL", "swav": "SwAV",
    "mocov2": "MoCo v2", "simclr": "SimCLR", "infomin": "InfoMin", "supervised": "supervised",
    "supervised_kl": "supervised, soft labels",
}


def cells(row):
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def loaded(pattern):
    return {path.name: json.loads(path.read_text()) for path in sorted(RESULTS.glob(pattern))}


def budget(run):
    """What has to be alike in all runs; a step is one batch of total_batch_size images."""
    names = ("model", "max_steps", "total_batch_size", "img_size", "stages", "dataset", "mixed_precision")
    return {name: run[name] for name in names} | {"opt": run["settings"]["opt"], "sched": run["settings"]["sched"]}


def test_every_row_had_the_same_steps_images_and_stages():
    runs = loaded("methods_*_training.json")
    assert {name.rpartition("_s")[0].removeprefix("methods_") for name in runs} == set(ROWS)
    first = budget(next(iter(runs.values())))
    assert "50,000 images" in first["dataset"]
    assert first["max_steps"] * len(first["stages"]) >= 2000 and first["total_batch_size"] >= 128
    for name, run in runs.items():
        assert budget(run) == first, name
        assert run["seed"] == int(name.rpartition("_s")[2][0]) and run["corrupt_images"] == 0, name


@pytest.mark.parametrize("method", ROWS)
def test_every_method_had_the_same_tuning_trials(method):
    trials = loaded(f"trials/small_{method}_lr*_training.json")
    measured = loaded(f"trials/small_{method}_lr*e-3.json")
    reference = loaded("trials/small_burn_lr*_training.json")
    assert [budget(run) for run in trials.values()] == [budget(run) for run in reference.values()]
    rates = [run["settings"]["lr"] for run in trials.values()]
    assert rates == [run["settings"]["lr"] for run in reference.values()] and len(set(rates)) == 2
    row, = re.findall(rf"^\| `{method}_small` \|.*$", (ROOT / "EXPERIMENTS.md").read_text(), re.M)
    assert cells(row)[1:] == [f"{100 * found['value']:.2f} %" for found in measured.values()]
    counts = {(found["dataset"]["train"]["images"], found["dataset"]["test"]["images"]) for found in measured.values()}
    assert counts == {(10_000, 2_000)}


@pytest.mark.parametrize("method", ROWS)
def test_minutes_and_memory_are_those_of_the_runs(method):
    table = re.search(r"methods:begin -->(.*?)<!-- methods:end", (ROOT / "EXPERIMENTS.md").read_text(), re.S).group(1)
    row, = (line for line in table.splitlines() if line.startswith(f"| {ROWS[method]} ("))
    runs = loaded(f"methods_{method}_s[0-9]_training.json").values()
    assert len(runs) >= 2  # seeds
    minutes = statistics.mean(run["train_seconds"] for run in runs) / 60
    memory = statistics.mean(run["peak_memory_bytes"] for run in runs) / 1e9
    assert cells(row)[4:] == [f"{minutes:.1f}", f"{memory:.1f}"]
