"""What the Hub's `/api/validate-yaml` asks of a model card, stated again and without the package's code.

From huggingface/hub-docs at 242f4a1 (modelcard.md, docs/hub/model-cards.md, docs/hub/repositories-licenses.md) and from
the messages of the Hub that issues quote (embeddings-benchmark/mteb #1111: the pattern of a data set's type).
"""

import math
import re

import yaml

FAMILIES = {
    "cc-by": "2.0 2.5 3.0 4.0", "cc-by-sa": "3.0 4.0", "cc-by-nc": "2.0 3.0 4.0", "cc-by-nd": "4.0",
    "cc-by-nc-nd": "3.0 4.0", "cc-by-nc-sa": "2.0 3.0 4.0", "cdla-permissive": "1.0 2.0", "cdla-sharing": "1.0",
    "eupl": "1.1 1.2", "gpl": "2.0 3.0", "lgpl": "2.1 3.0", "agpl": "3.0", "openmdw": "1.0 1.1", "apache": "2.0",
    "bsd": "2-clause 3-clause 3-clause-clear",
}
SINGLE = """
    afl-3.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsl-1.0 c-uda cc cc0-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0
    epl-1.0 epl-2.0 etalab-2.0 fair-noncommercial-research-license gemma gfdl gpl grok2-community h-research
    intel-research isc lgpl lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0
    ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl
    zlib
"""
LICENCES = {*SINGLE.split(), *(f"{name}-{end}" for name, ends in FAMILIES.items() for end in ends.split())}

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
        said += [f'"{name}" with value "{one}" is not valid' for one in _several(data, name, said) if not _is_id(one)]
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
    if _require(result["dataset"], f"{where}.dataset", {"type": str, "name": str}, said):
        if not _is_id(result["dataset"]["type"]):
            said.append(f'"{where}.dataset.type" with value "{result["dataset"]["type"]}" fails to match the pattern')
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


def _is_id(text: str) -> bool:
    return re.fullmatch(ID, text, re.ASCII) is not None
