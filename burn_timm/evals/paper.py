"""The BURN paper's tables (`paper.yaml`): the row of a run, and whether the paper's figures may stand beside ours."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

TABLES: dict[int, dict] = yaml.safe_load(Path(__file__).with_name("paper.yaml").read_text(encoding="utf-8"))

_METHODS = {
    "burn": "BURN", "s2bnn": "S2-BNN", "byol": "BYOL", "swav": "SwAV", "mocov2": "MoCo v2", "simclr": "SimCLR",
    "infomin": "InfoMin", "supervised": "supervised", "supervised_kl": "supervised, soft labels",
}
# A setting of BURN -> the paper's value, and the words for another one.
_DEPARTURES = {
    "lambda_schedule": ("cosine", "{} lambda"),
    "fs_loss": ("cosine", "L_FS {}"),
    "adapter": ("linear", "MLP adapter"),
    "fs_center": (False, "L_FS centred"),
    "target_head": ("joint", "{} target head"),
    "information_weight": (0, "information term {:g}"),
    "kl_direction": ("student-target", "KL reversed"),
    "center_momentum": (1, "centred target {:g}"),
    "target_temperature": (None, "target temperature {:g}"),
    "reset_target_head": (False, "fresh target head"),
}


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
        has_temperature = settings.get("fs_loss", "cosine") not in ("cosine", "l1", "l2")
        if has_temperature and settings.get("fs_temperature", 0.1) != 0.1:
            settings["fs_loss"] += f" {settings['fs_temperature']:g}"
        if settings.get("target_temperature") == settings.get("temperature"):
            settings.pop("target_temperature", None)
        if settings.get("target_head") == "frozen" and "teacher_norm" not in settings:  # before it was the released one
            settings["target_head"] = "unnormalised frozen"
        for name, (papers, words) in _DEPARTURES.items():
            if settings.get(name) not in (None, papers):
                parts.append(words.format(settings[name]))
    if training.get("stages") == ["w1a1"]:
        parts.append("one stage")
    return ", ".join(parts)


def same_protocol(number: int, result: dict) -> bool:
    """Whether the paper's figures of a table may stand beside a result.

    They may where the network is ReActNet-A, trained on the whole of ImageNet at 224 px, and was evaluated on all of
    the paper's images in the way that `paper.yaml` states.
    """
    training, protocol, dataset = result.get("training") or {}, flatten(result["protocol"]), result["dataset"]
    published = TABLES[number].get("published", {})
    found = published.get(last_part(dataset["name"]) if result["task"] == "transfer" else result["task"])
    same_network = (training.get("model") in ("reactnet_a", "reactnet_a_burn") and training.get("img_size") == 224
                    and "1,281,167 images" in str(training.get("dataset")))
    if found is None or not same_network:
        return False
    wanted = flatten(found)
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


def flatten(nested: dict, prefix: str = "") -> dict[str, Any]:
    """Nested entries under one dotted name: `{"a": {"b": 1}}` becomes `{"a.b": 1}`."""
    flat = {}
    for name, value in nested.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def last_part(dataset: str) -> str:
    """The last part of a dataset's name in small letters: `cifar10` for `hfds//data/CIFAR-10`."""
    return dataset.rstrip("/").rsplit("/", 1)[-1].lower().replace("-", "")
