"""What the Hub's `/api/validate-yaml` asks of a model card, stated again and without the package's code.

From huggingface/hub-docs at 242f4a1 (modelcard.md, docs/hub/model-cards.md, docs/hub/repositories-licenses.md) and from
the messages of the Hub that issues quote (embeddings-benchmark/mteb #1111: the pattern of a data set's type).
"""

import math
import re

import yaml

# Of the Hub's list, those that a card of ours may name.
LICENCES = {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc0-1.0", "unknown", "other"}
ID = r"(?:[\w-]+\/)?[\w\-.]+"


def refusals(content: str) -> list[str]:
    """Messages of the Hub about a README.md; none where it takes it."""
    block = re.match(r"\s*---(?:\r\n|\r|\n)([\S\s]*?)(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|$)", content)
    if block is None:
        return []  # a card without metadata is no error, only a warning
    try:
        data = yaml.safe_load(block[1])
    except yaml.YAMLError:
        return ["bad YAML"]
    if not isinstance(data, dict):
        return ['"metadata" must be an object']
    said = []
    for name in ("library_name", "pipeline_tag"):
        if name in data and not isinstance(data[name], str):
            said.append(f'"{name}" must be a string')
    for licence in _several(data, "license", said):
        if licence not in LICENCES:
            said.append('"license" must be one of the identifiers of the docs')
    if data.get("license") == "other":
        said += [f'"{name}" is required' for name in ("license_name", "license_link") if not data.get(name)]
        if not re.fullmatch(r"[a-z0-9.-]+", str(data.get("license_name", "x"))):
            said.append('"license_name" fails to match the required pattern')
    for name in ("datasets", "base_model"):
        said += [f'"{name}" with value "{one}" is not valid' for one in _several(data, name, said) if not is_id(one)]
    for name in ("tags", "metrics"):
        _several(data, name, said)
    index = data.get("model-index", [])
    if not isinstance(index, list):
        return [*said, '"model-index" must be an array']
    for number, model in enumerate(index):
        _require(model, f"model-index[{number}]", {"name": str, "results": list}, said)
        for place, result in enumerate(model.get("results", []) if isinstance(model, dict) else []):
            _result(result, f"model-index[{number}].results[{place}]", said)
    return said


def _result(result, where: str, said: list[str]) -> None:
    if not _require(result, where, {"task": dict, "dataset": dict, "metrics": list}, said):
        return
    _require(result["task"], f"{where}.task", {"type": str}, said)
    dataset = result["dataset"]
    if _require(dataset, f"{where}.dataset", {"type": str, "name": str}, said) and not is_id(dataset["type"]):
        said.append(f'"{where}.dataset.type" with value "{dataset["type"]}" fails to match the pattern')
    for number, metric in enumerate(result["metrics"]):
        _require(metric, f"{where}.metrics[{number}]", {"type": str, "value": (int, float, str)}, said)
    if "source" in result:
        _require(result["source"], f"{where}.source", {"url": str}, said)


def _require(value, where: str, kinds: dict, said: list[str]) -> bool:
    if not isinstance(value, dict):
        said.append(f'"{where}" must be of type object')
        return False
    before = len(said)
    for name, kind in kinds.items():
        entry = value.get(name)
        if entry is None or entry == "" or isinstance(entry, float) and math.isnan(entry):
            said.append(f'"{where}.{name}" is required')
        elif not isinstance(entry, kind) or isinstance(entry, bool):
            said.append(f'"{where}.{name}" has the wrong type')
    return len(said) == before


def _several(data: dict, name: str, said: list[str]) -> list[str]:
    entries = data.get(name, [])
    entries = [entries] if isinstance(entries, str) else entries
    if not isinstance(entries, list) or not all(isinstance(entry, str) and entry for entry in entries):
        said.append(f'"{name}" must be an array of strings')
        return []
    return entries


def is_id(text: str) -> bool:
    return re.fullmatch(ID, text, re.ASCII) is not None
