"""One JSON file per measured figure: the value and all one needs to get it again, without paths of this machine."""

import datetime
import os
import sys
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
    extra: dict | None = None,
    command: Sequence[str] | None = None,
    training: dict | None = None,
) -> dict:
    """Write one result as JSON, whole or not at all, and return what was written.

    Keys: task, value, protocol, dataset, model, checkpoint (None, or dict(path, sha256)), commit, command, hardware,
    versions, date (UTC, ISO 8601), and, if given, extra and training. All strings go through `redact`.

    Args:
        value: the headline figure, a fraction in [0, 1].
        dataset: names and counts.
        checkpoint: the file the weights came from, or None.
        command: the argument vector; sys.argv by default.
        training: how the checkpoint was trained (`network.training_of`).

    Raises:
        BurnError: the checkpoint cannot be read, or `path` cannot be written.
        ValueError: a value is not finite.
    """
    if command is None:
        command = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
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
