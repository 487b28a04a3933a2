"""One JSON file per measured figure: the value and all one needs to get it again, without paths of this machine."""

import datetime
import os
from collections.abc import Sequence

from ..files import write_json
from ..provenance import file_sha256, git_commit, hardware, redact_command, redact_tree, versions


def write_result(
    path: str | os.PathLike,
    *,
    task: str,
    value: float,
    protocol: dict,
    dataset: dict,
    model: str,
    checkpoint: str | os.PathLike | None,
    command: Sequence[str],
    extra: dict | None = None,
    training: dict | None = None,
) -> dict:
    """Write one result as JSON, whole or not at all, and return what was written.

    Keys: task, value, protocol, dataset, model, checkpoint (None, or dict(path, sha256)), commit, command, hardware,
    versions, date (UTC, ISO 8601), and, if given, extra and training. All strings go through `redact`.

    Args:
        value: the headline figure, a fraction in [0, 1].
        dataset: names and counts.
        checkpoint: the file the weights came from, or None.
        command: the argument vector.
        training: how the checkpoint was trained (`network.training_of`).

    Raises:
        BurnError: the checkpoint cannot be read, or `path` cannot be written.
        ValueError: a value is not finite.
    """
    if checkpoint is not None:
        checkpoint = {"path": os.path.abspath(checkpoint), "sha256": file_sha256(checkpoint)}
    result = redact_tree({"task": task, "value": value, "protocol": protocol, "dataset": dataset, "model": model})
    result["checkpoint"] = redact_tree(checkpoint)
    result["commit"] = git_commit()
    result["command"] = redact_command(command)
    result["hardware"] = hardware()
    result["versions"] = versions()
    result["date"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    if extra is not None:
        result["extra"] = redact_tree(extra)
    if training is not None:
        result["training"] = redact_tree(training)
    write_json(path, result)
    return result


def summary(result: dict) -> list[str]:
    """Lines for the terminal with the figures beside `value`, in per cent: top-5, starts, draws, other measures."""
    extra, task = result.get("extra") or {}, result["task"]
    if task == "finetune":
        return [
            f"from {start} weights: top-1 {_percent(best['top1'])}, top-5 {_percent(best['top5'])} "
            f"(learning rate {best['lr']:g}, head x {best['head_multiplier']:g})"
            for start, best in extra["starts"].items()
        ]
    if task == "svm":
        lines = [
            f"k = {k}: {found}" if isinstance(found, str)
            else f"k = {k}: {100 * found['mean']:.2f} ± {_percent(found['std'])} mAP ({len(found['draws'])} draws)"
            for k, found in extra["low_shot"].items()
        ]
        full, why = extra["full"], f" ({extra['full_lacks']})" if "full_lacks" in extra else ""
        if full is not None:
            lines.append(f"full: {full}{why}" if isinstance(full, str) else f"full: {_percent(full)} mAP")
        return lines
    if task == "detection":
        return [
            f"{name} images: VOC 11-point mAP {_percent(voc['map'])}, AP50 {_percent(voc['ap50'])}, "
            f"AP75 {_percent(voc['ap75'])}; COCO AP {_percent(coco['ap'])}, AP50 {_percent(coco['ap50'])}, "
            f"AP75 {_percent(coco['ap75'])}"
            for name in ("test", "train") if name in extra
            for voc, coco in [(extra[name]["voc"], extra[name]["coco"])]
        ]
    return [f"top-5 {_percent(extra['top5'])}"] if "top5" in extra else []


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"
