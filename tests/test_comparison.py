"""The methods that EXPERIMENTS.md compares had the same budget."""

import json
from pathlib import Path

from burn_timm.methods import METHODS

RESULTS = Path(__file__).parents[1] / "results"


def loaded(pattern):
    return {path.name: json.loads(path.read_text()) for path in sorted(RESULTS.glob(pattern))}


def budget(run):
    """What has to be alike in all runs; a step is one batch of total_batch_size images."""
    names = ("model", "max_steps", "total_batch_size", "img_size", "stages", "dataset", "mixed_precision")
    return {name: run[name] for name in names} | {"opt": run["settings"]["opt"], "sched": run["settings"]["sched"]}


def test_every_row_had_the_same_steps_images_and_stages():
    runs = loaded("methods_*_training.json")
    assert {name.rpartition("_s")[0].removeprefix("methods_") for name in runs} == {*METHODS, "s2bnn_contrastive"}
    first = budget(next(iter(runs.values())))
    assert "50,000 images" in first["dataset"]
    assert first["max_steps"] * len(first["stages"]) >= 2000 and first["total_batch_size"] >= 128
    for name, run in runs.items():
        assert budget(run) == first, name
        assert run["seed"] == int(name.rpartition("_s")[2][0]) and run["corrupt_images"] == 0, name
