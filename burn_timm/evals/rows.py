"""Which results share a row of a table: one network, trained and evaluated in one way; only the seed may differ."""

import json
import re
from collections import defaultdict

from .paper import row_name

# Of a protocol: what says which network or which seed, or repeats in words what another setting says; of the view's
# interpolation, which older results do not have, the view decides.
_FREE = (
    "seed", "weights", "parameters", "device", "feature_dim", "starts", "fraction", "shots", "full",
    "method", "probe", "init", "metric", "choice", "lr_choice", "penalty_choice", "detector", "optimiser", "batchnorm",
    "train_sets", "view_interpolation",
)
_LATER = ("views",)  # settings that older results do not state, which had the default
_REWORDED = {  # as older results have it -> as it is now
    "lr_schedule": (r"(\d+) %", lambda match: f"{int(match[1]) / 100:g}"),
    "views": (r"\(0.08 to 1\)", "(0.08 to 1, bicubic)"),
    "labels": (r", seed \d+", ""),  # of the drawn ones, as of all
}


def network(result: dict) -> str:
    """The row of a result: which network, trained how, and a head or start that is not the usual one; no seed."""
    return ", ".join([_network(result), *_head(result)])


def _network(result: dict) -> str:
    protocol, training = result["protocol"], result.get("training")
    if result["model"] == "pixels":
        return "raw pixels"
    if training:
        budget = f"{training['max_steps']} steps" if training.get("max_steps") else f"{training.get('epochs')} epochs"
        stages = "" if training.get("stages") == ["fp"] else " a stage"
        return f"{row_name(training)} ({training['model']}, {training.get('img_size')} px, {budget}{stages})"
    weights = str(protocol.get("weights", ""))
    if weights.startswith("random"):
        calibrated = ", BatchNorm calibrated" if "calibrated_batchnorm" in protocol else ""
        side = (protocol.get("transform", {}).get("input_size") or [None])[-1]
        size = f", {side} px" if side else ""
        return f"untrained ({result['model']}{size}{calibrated})"
    digest = _digest(result)  # one path may have held several networks
    return f"{result['model']} ({weights}{' ' + digest if digest else ''})" if weights else result["model"]


def _head(result: dict) -> list[str]:
    protocol = result["protocol"]
    named = {
        "L-BFGS": "L-BFGS" in str(protocol.get("method")),
        "MLP probe": str(protocol.get("probe")).startswith("hidden layer"),
        "FPN": protocol.get("neck") == "fpn",
    }
    start = [f"from {result['start']} weights"] if "start" in result else []  # beside the first one of finetune
    return [name for name, is_so in named.items() if is_so] + start


def set_of(result: dict) -> str:
    """The data of a result, in words."""
    dataset = result["dataset"]
    if isinstance(dataset["train"], list):  # detection: several sets
        train = " + ".join(f"{part['split']}, {part['images']:,} images" for part in dataset["train"])
        return f"{dataset['name']}: {train}; test {dataset['test']['split']}, {dataset['test']['images']:,} images"
    return dataset["description"] or dataset["name"]


def rows_of(results: list[dict]) -> dict[str, list[list[dict]]]:
    """Results of one column by the name of their row; in a row, a list for each seed.

    One row holds one protocol: where that of a network differs between its results, the differences are added to the
    name. Several results of one seed are the same weights measured again; where the weights differ, so do the rows.
    """
    networks = defaultdict(list)
    for result in results:
        networks[network(result)].append(result)
    named = defaultdict(list)
    for name, members in networks.items():
        for result, words in zip(members, _differences(members), strict=True):
            named[f"{name} [{'; '.join(words)}]" if words else name].append(result)
    rows = {}
    for name, members in named.items():
        seeds = _by_seed(members)
        if any(len({_digest(result) for result in same}) > 1 for same in seeds.values()):
            apart = defaultdict(list)
            for result in members:
                apart[f"{name} [weights {_digest(result)}]"].append(result)
            rows |= {other: list(_by_seed(same).values()) for other, same in apart.items()}
        else:
            rows[name] = list(seeds.values())
    return rows


def _by_seed(results: list[dict]) -> dict:
    seeds = defaultdict(list)
    for result in results:
        seeds[(result.get("training") or {}).get("seed", result["protocol"].get("seed"))].append(result)
    return seeds


def _digest(result: dict) -> str:
    return (result.get("checkpoint") or {}).get("sha256", "")[:8]


def _differences(results: list[dict]) -> list[list[str]]:
    """For each result, in words, the settings in which these results are not all alike."""
    settings = [_settings(result) for result in results]
    words: list[list[str]] = [[] for _ in results]
    for key in dict.fromkeys(key for found in settings for key in found):
        stated = [found.get(key, "none") for found in settings]
        if len(set(stated) - ({"none"} if key in _LATER else set())) > 1:
            name = key.removeprefix("transform.").removesuffix(".name").replace(".", " ").replace("_", " ")
            for told, value in zip(words, stated, strict=True):
                told.append(f"{name} {value}")
    return words


def _settings(result: dict) -> dict[str, str]:
    """Every setting that may change a figure, nested ones by a dotted name, as text."""
    protocol, dataset = result["protocol"], result["dataset"]
    found = {key: value for key, value in protocol.items() if key not in _FREE}
    for key, (before, after) in _REWORDED.items():
        if key in found:
            found[key] = re.sub(before, after, str(found[key]))
    for part in ("train", "test"):
        if isinstance(dataset.get(part), dict):
            name = "training" if part == "train" else "test"
            found |= {f"{name}_{key}": dataset[part].get(key) for key in ("images", "split")}
    flat = {}

    def flatten(key: str, value) -> None:
        if isinstance(value, dict):
            for inner, item in value.items():
                flatten(f"{key}.{inner}", item)
        else:
            flat[key] = value if isinstance(value, str) else re.sub(r'[\[\]",]', "", json.dumps(value))

    for key, value in found.items():
        flatten(key, value)
    flat.pop("engine.version", None)  # as torch's, which no protocol has
    return flat
