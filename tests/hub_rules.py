"""What the Hub's `/api/validate-yaml` asks of a model card, stated again and without the package's code.

From huggingface/hub-docs at 242f4a1 (modelcard.md, docs/hub/model-cards.md, docs/hub/repositories-licenses.md) and from
the messages of the Hub that issues quote (embeddings-benchmark/mteb #1111: the pattern of a data set's type).
"""

import re

import yaml

# Of the Hub's list, those that a card of ours may name.
LICENCES = {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc0-1.0", "unknown", "other"}
ID = r"(?:[\w-]+\/)?[\w\-.]+"


TEXT, NUMBER = str, (int, float, str)
RESULT = {"task": {"type": TEXT}, "dataset": {"type": TEXT, "name": TEXT}, "metrics": [{"type": TEXT, "value": NUMBER}]}
CARD = {"model-index": [{"name": TEXT, "results": [RESULT]}]}


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
    several = {name: [data[name]] if isinstance(data[name], str) else data[name]
               for name in ("license", "datasets", "base_model", "tags", "metrics") if name in data}
    said = [f'"{name}" must be an array of strings' for name, entries in several.items()
            if not isinstance(entries, list) or not all(isinstance(entry, str) and entry for entry in entries)]
    said += [f'"{name}" must be a string' for name in ("library_name", "pipeline_tag")
             if not isinstance(data.get(name, ""), str)]
    if said:
        return said
    if set(several.get("license", [])) - LICENCES:
        said.append('"license" must be one of the identifiers of the docs')
    if data.get("license") == "other":
        said += [f'"{name}" is required' for name in ("license_name", "license_link") if not data.get(name)]
        if not re.fullmatch(r"[a-z0-9.-]+", str(data.get("license_name", "x"))):
            said.append('"license_name" fails to match the required pattern')
    said += [f'"{name}" with value "{one}" is not valid' for name in ("datasets", "base_model")
             for one in several.get(name, []) if not is_id(one)]
    said += list(_unlike(data, {name: CARD[name] for name in CARD if name in data}, "metadata"))
    if not said:
        kinds = [result["dataset"]["type"] for model in data.get("model-index", []) for result in model["results"]]
        said += [f'"dataset.type" with value "{kind}" fails to match the pattern' for kind in kinds if not is_id(kind)]
    return said


def _unlike(value, form, where: str):
    """What in `value` has not the form of `form`: dicts with these entries, lists of such, or types."""
    if isinstance(form, dict) and isinstance(value, dict):
        for name, inside in form.items():
            yield from _unlike(value.get(name), inside, f"{where}.{name}")
    elif isinstance(form, list) and isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _unlike(entry, form[0], f"{where}[{number}]")
    elif isinstance(form, (dict, list)):
        yield f'"{where}" must be of type {type(form).__name__}'
    elif not isinstance(value, form) or isinstance(value, bool) or value == "" or value != value:  # NaN
        yield f'"{where}" is required, or of the wrong type'


def is_id(text: str) -> bool:
    return re.fullmatch(ID, text, re.ASCII) is not None
