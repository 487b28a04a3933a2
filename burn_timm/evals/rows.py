"""Which results share a row of a table: one network, trained and evaluated in one way; only the seed may differ."""

import json
from collections import defaultdict

from .paper import row_name

IMAGENET = (1_281_167, 50_000)  # images of training and validation
_TRANSFER = {  # Table 4's sets: images of training and test
    "cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000), "cub": (5_994, 5_794), "birdsnap": (47_386, 2_443),
    "places205": (2_448_873, 20_500),
}
# What differs between seeds, machines and starts of one protocol, or between the columns of one row.
# The interpolation follows from the view; older results do not have it.
_FREE = {
    "seed", "weights", "labels", "starts", "parameters", "device", "calibrated_batchnorm",
    "view_interpolation",
}


def network(result: dict) -> str:
    """Which network, trained how; the same for all seeds."""
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
        size = f", {protocol['transform']['input_size'][-1]} px" if "transform" in protocol else ""
        return f"untrained ({result['model']}{size}{calibrated})"
    digest = (result.get("checkpoint") or {}).get("sha256", "")[:8]  # one path may have held several networks
    return f"{result['model']} ({weights}{' ' + digest if digest else ''})" if weights else result["model"]


def set_of(result: dict) -> str:
    """The data of a result, in words."""
    dataset = result["dataset"]
    if isinstance(dataset["train"], list):  # detection: several sets
        train = " + ".join(f"{part['split']}, {part['images']:,} images" for part in dataset["train"])
        return f"{dataset['name']}: {train}; test {dataset['test']['split']}, {dataset['test']['images']:,} images"
    return dataset["description"] or dataset["name"]


def row_names(results: list[dict]) -> list[str]:
    """The row of each result: `network`, and where one network was evaluated by several protocols on the same data,
    what the protocol of this one says where they differ."""
    groups = defaultdict(list)
    for index, result in enumerate(results):
        fraction = result["protocol"].get("fraction")
        groups[network(result), set_of(result), result["task"], fraction, result.get("start")].append(index)
    names = [
        network(result) + (f", from {result['start']} weights" if "start" in result else "") for result in results
    ]
    for indices in groups.values():
        said = {index: _said(results[index]) for index in indices}
        keys = sorted({key for found in said.values() for key in found})
        differ = [key for key in keys if len({found.get(key) for found in said.values()}) > 1]
        if "method" in differ:  # says the rest
            differ = ["method", *(key for key in ("probe",) if key in differ)]
        for index in indices if differ else ():
            words = "; ".join(f"{key} {said[index].get(key, 'none')}" for key in differ)
            names[index] += f" [{words}]"
    return names


def _said(result: dict) -> dict[str, str]:
    """The protocol's entries as text, those of the evaluated images (limits) among them."""
    train, test = result["dataset"]["train"], result["dataset"]["test"]
    entries = {key: value for key, value in result["protocol"].items() if key not in _FREE}
    images = [part["images"] for part in (train if isinstance(train, list) else [train])]
    entries["images"] = f"{sum(images):,} and {test['images']:,}"
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in entries.items()}


def same_protocol(number: int, result: dict) -> bool:
    """Whether the paper's figures of a table may stand beside a result: ReActNet-A, trained on the whole of ImageNet at
    224 px, and evaluated in the published way on all of the paper's images."""
    training, protocol, dataset = result.get("training") or {}, result["protocol"], result["dataset"]
    # A run's dataset is named with its count, "..., 1,281,167 images, ...".
    imagenet = f"{IMAGENET[0]:,}" in str(training.get("dataset"))
    same_network = training.get("model") in ("reactnet_a", "reactnet_a_burn") and training.get("img_size") == 224
    if not (imagenet and same_network):
        return False
    if number == 1:  # VOC 07+12
        images = sum(part["images"] for part in dataset["train"]), dataset["test"]["images"]
        published = {"neck": "c4", "iterations": 24_000, "milestones": [18_000, 22_000], "batch_size": 16, "lr": 0.02}
        return images == (16_551, 4_952) and all(protocol.get(key) == value for key, value in published.items())
    cut = [part for part in ("train", "test") if dataset[part]["images"] != dataset[part]["of"]]
    if cut and not (cut == ["train"] and result["task"] == "finetune"):  # --limit-train, --limit-test
        return False
    counts = dataset["train"]["of"], dataset["test"]["images"]
    if number == 3:
        return counts == (5_011, 4_952)
    if result["task"] == "finetune":
        grid = set(protocol.get("lrs", ())), set(protocol.get("head_multipliers", ()))
        return counts == IMAGENET and grid == ({0.1, 0.01, 0.001}, {1, 10, 100})
    if protocol.get("probe") != "linear classifier":  # an MLP, or logistic regression by L-BFGS
        return False
    if number == 4:
        name = dataset["name"].rstrip("/").rsplit("/", 1)[-1].lower().replace("-", "")
        return counts == _TRANSFER.get(name)
    return counts == IMAGENET and str(protocol.get("views")).startswith("random resized crop")
