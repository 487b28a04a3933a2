"""What the Hub asks of a model card's front matter, checked without the Hub.

Rules of github.com/huggingface/hub-docs, modelcard.md, and of its list of licences. The Hub checks again on a push.
"""

import re
from collections.abc import Callable
from typing import Any

import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results

LICENSES = frozenset("""
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    openmdw-1.0 openmdw-1.1 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown
    other
""".split())
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_DATASET = re.compile(r"(?:[\w-]+/)?[\w.-]+", re.ASCII)  # as the Hub says when it refuses
_REPO = re.compile(rf"{NAME}(?:/{NAME})?")


def card_errors(card: str) -> list[str]:
    """What is wrong with the front matter of a model card, one sentence each; empty if nothing is."""
    found = _FRONT.match(card)
    if not found:
        return ["the card does not begin with front matter between two lines of ---"]
    try:
        data = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        return [f"the front matter is not YAML: {' '.join(str(error).split())}"]
    if not isinstance(data, dict):
        return ["the front matter is not a mapping of key: value"]
    return front_matter_errors(data)


def front_matter_errors(data: dict[str, Any]) -> list[str]:
    """The same for front matter that has been read."""
    errors = []

    def check(key: str, expected: str, fits: Callable[[Any], bool]) -> None:
        if key in data and not fits(data[key]):
            errors.append(f"{key} must be {expected}, not {data[key]!r}")

    for key in ("library_name", "pipeline_tag", "license_link"):
        check(key, "text", _is_text)
    check("license_name", "lower-case letters, digits, dots and hyphens",
          lambda value: _is_text(value) and re.fullmatch(r"[a-z0-9][a-z0-9.-]*", value) is not None)
    for key in ("tags", "metrics"):
        check(key, "a list of texts", lambda value: isinstance(value, list) and all(map(_is_text, value)))
    for key in ("datasets", "base_model"):
        check(key, "the ids of repositories on the Hub", lambda value: all(map(_is_repo, _listed(value))))
    check("license", "one of the Hub's licence ids, or other with license_name",
          lambda value: all(isinstance(name, str) and name in LICENSES for name in _listed(value)))
    if "other" in _listed(data.get("license")):
        errors += [f"license other needs {key}" for key in ("license_name", "license_link") if not data.get(key)]
    if "model-index" in data:
        errors += _model_index_errors(data["model-index"])
    return errors


def _model_index_errors(index: Any) -> list[str]:
    if not isinstance(index, list) or len(index) != 1:
        return ["model-index must be a list of one model"]
    try:
        name, results = model_index_to_eval_results(index)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return [f"model-index: {type(error).__name__} {error}: each result has a task, a dataset and metrics"]
    errors = [] if _is_text(name) else [f"model-index: name must be text, not {name!r}"]
    for result in results:
        for key in ("task_type", "dataset_type", "dataset_name", "metric_type"):
            if not _is_text(value := getattr(result, key)):
                errors.append(f"model-index: {key.replace('_', '.', 1)} must be text, not {value!r}")
        if _is_text(result.dataset_type) and not _DATASET.fullmatch(result.dataset_type):
            errors.append(f"model-index: dataset.type must be like an id of the Hub, not {result.dataset_type!r}")
        value = result.metric_value
        if isinstance(value, bool) or not isinstance(value, (int, float, str)) or value != value:
            errors.append(f"model-index: metric.value must be a number, not {value!r}")
    return errors


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_repo(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 96 and _REPO.fullmatch(value) is not None


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [value]
