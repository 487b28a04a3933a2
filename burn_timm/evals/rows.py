"""Which results share a row of a table: one network, trained and evaluated in one way. Only the seed may differ."""

import json
import re
from collections import defaultdict

from .paper import flatten, row_name

# Entries of a protocol that say which network or which seed, or repeat in words what another entry says.
_FREE = {
    "seed", "weights", "parameters", "device", "feature_dim", "starts", "fraction", "shots", "full", "method", "probe",
    "init", "metric", "choice", "lr_choice", "penalty_choice", "detector", "optimiser", "batchnorm", "train_sets",
    "view_interpolation",
}


def network(result: dict) -> str:
    """The network of a result, how it was trained, and a head or start that is not the usual one; without the seed."""
    protocol = result["protocol"]
    unusual = {
        "L-BFGS": "L-BFGS" in str(protocol.get("method")),
        "MLP probe": str(protocol.get("probe")).startswith("hidden layer"),
        "FPN": protocol.get("neck") == "fpn",
        f"from {result.get('start')} weights": "start" in result,
    }
    return ", ".join([_network(result), *(words for words, holds in unusual.items() if holds)])


def _network(result: dict) -> str:
    protocol, training, model = result["protocol"], result.get("training"), result["model"]
    if model == "pixels":
        return "raw pixels"
    if training:
        budget = f"{training['max_steps']} steps" if training.get("max_steps") else f"{training.get('epochs')} epochs"
        stages = "" if training.get("stages") == ["fp"] else " a stage"
        return f"{row_name(training)} ({training['model']}, {training.get('img_size')} px, {budget}{stages})"
    weights = str(protocol.get("weights", ""))
    if weights.startswith("random"):
        size = protocol.get("transform", {}).get("input_size")
        parts = [model, *([f"{size[-1]} px"] if size else [])]
        parts += ["BatchNorm calibrated"] if "calibrated_batchnorm" in protocol else []
        return f"untrained ({', '.join(parts)})"
    words = " ".join(filter(None, [weights, _digest(result)]))  # one path may have held several networks
    return f"{model} ({words})" if weights else model


def set_of(result: dict) -> str:
    """The data of a result, in words."""
    dataset = result["dataset"]
    if isinstance(dataset["train"], list):  # detection: several sets
        train = " + ".join(f"{part['split']}, {part['images']:,} images" for part in dataset["train"])
        return f"{dataset['name']}: {train}; test {dataset['test']['split']}, {dataset['test']['images']:,} images"
    return dataset["description"] or dataset["name"]


def rows_of(results: list[dict]) -> dict[str, list[list[dict]]]:
    """The results of one column by the name of their row; in a row, one list for each seed.

    A row has one protocol: where the results of a network differ in theirs, the differences are added to the name.
    Several results of one seed are the same weights measured again; where the weights differ, each has its own row.
    """
    networks = defaultdict(list)
    for result in results:
        networks[network(result)].append(result)
    rows = defaultdict(list)
    for name, members in networks.items():
        for result, words in zip(members, _differences(members), strict=True):
            rows[f"{name} [{'; '.join(words)}]" if words else name].append(result)
    for name, members in list(rows.items()):
        if any(len({_digest(result) for result in same}) > 1 for same in _by_seed(members)):
            del rows[name]
            for result in members:
                rows[f"{name} [weights {_digest(result)}]"].append(result)
    return {name: _by_seed(members) for name, members in rows.items()}


def _by_seed(results: list[dict]) -> list[list[dict]]:
    seeds = defaultdict(list)
    for result in results:
        seeds[(result.get("training") or {}).get("seed", result["protocol"].get("seed"))].append(result)
    return list(seeds.values())


def _digest(result: dict) -> str:
    return (result.get("checkpoint") or {}).get("sha256", "")[:8]


def _differences(results: list[dict]) -> list[list[str]]:
    """For each result, in words, the settings in which these results are not all alike."""
    settings = [_settings(result) for result in results]
    names = dict.fromkeys(name for found in settings for name in found)
    differing = [name for name in names if len({found.get(name, "none") for found in settings}) > 1]
    words = {name: re.sub(r"[._]", " ", name.removeprefix("transform.").removesuffix(".name")) for name in differing}
    return [[f"{words[name]} {found.get(name, 'none')}" for name in differing] for found in settings]


def _settings(result: dict) -> dict[str, str]:
    """Every setting that may change a figure, as text."""
    found = {name: value for name, value in flatten(result["protocol"]).items() if name.split(".")[0] not in _FREE}
    found.pop("engine.version", None)
    if "labels" in found:  # the drawn ones depend on the seed
        found["labels"] = re.sub(r", seed \d+", "", found["labels"])
    for name, part in (("training", result["dataset"]["train"]), ("test", result["dataset"]["test"])):
        if isinstance(part, dict):
            found |= {f"{name}_images": part.get("images"), f"{name}_split": part.get("split")}
    return {
        name: value if isinstance(value, str) else re.sub(r'[\[\]",]', "", json.dumps(value))
        for name, value in found.items()
    }
