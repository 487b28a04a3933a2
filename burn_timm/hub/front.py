"""The front matter of a model card, as the Hub's search, licence badge and leaderboards read it."""

from collections.abc import Sequence
from dataclasses import dataclass

import timm
from huggingface_hub import ModelCardData

from ..checkpoints import burn_models
from ..errors import BurnError
from ..methods import METHODS
from .measured import Row
from .metadata import LICENSES
from .terms import Terms


@dataclass(frozen=True)
class Chosen:
    """What whoever publishes the weights says of them, instead of what the names of data and teacher tell.

    license: the Hub's id; license_name, license_link: with `other`. dataset_id: Hub ids of the training images.
    """

    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    dataset_id: Sequence[str] = ()


def front_matter(
    config: dict, details: dict, rows: Sequence[Row], data: Terms | None, name: str, chosen: Chosen,
) -> ModelCardData:
    """Of the network of a config.json, trained as `details` say on `data`, with the results `rows`."""
    terms = _license(details, data, chosen)
    base = teacher_weights(details)[0]
    tags = ["timm", "burn-timm"]
    if config["architecture"] in burn_models():
        tags.append("binary-neural-network")
    method = details.get("method")
    if method in METHODS and not METHODS[method].needs_labels:
        tags.append("self-supervised-learning")
    results = [row.eval_result() for row in rows]
    return ModelCardData(
        library_name="timm", license=terms[0], license_name=terms[1], license_link=terms[2],
        pipeline_tag="image-classification" if config.get("num_classes") else "image-feature-extraction",
        tags=tags + ([method] if method else []),
        datasets=list(chosen.dataset_id) or ([data.hub_id] if data and data.hub_id else None),
        base_model=base, metrics=sorted({result.metric_type for result in results}) or None, model_name=name,
        eval_results=results or None,
    )


def _license(details: dict, data: Terms | None, choice: Chosen) -> tuple[str, str | None, str | None]:
    """Licence id, and name and link where it is `other`."""
    chosen, named = choice.license, (choice.license_name, choice.license_link)
    if any(named) and (chosen != "other" or not all(named)):
        raise BurnError("--license other, --license-name and --license-link go together; give all three, or another id")
    own = ("other", data.license_name, data.link) if data and data.commercial is False else None
    teacher = teacher_weights(details)[1]
    restricted = own or (("-nc" in str(teacher)) and (teacher, None, None)) or None
    if chosen is None:
        return restricted or ("apache-2.0" if data and data.commercial else "unknown", None, None)
    if chosen not in LICENSES:
        raise BurnError(f"--license {chosen}: no licence id of the Hub; such as {', '.join(sorted(LICENSES)[:9])}, ...")
    if chosen == "other":
        if not all(named) and own is None:
            raise BurnError("--license other: the Hub wants its name and address: --license-name and --license-link")
        return ("other", *named) if all(named) else own
    if restricted and "-nc" not in chosen and "research" not in chosen:
        cause = f"on {data.name}, whose terms are" if own else f"with a teacher under {teacher}, which is"
        raise BurnError(f"--license {chosen}: the weights were trained {cause} non-commercial; such is cc-by-nc-4.0")
    return chosen, None, None


def teacher_weights(details: dict) -> tuple[str | None, str | None]:
    """Repository of the teacher's weights and their licence, where timm or the Hub has them."""
    name = details.get("teacher") or ""
    own_file = details.get("teacher_checkpoint") or "--teacher-checkpoint" in str(details.get("command"))
    random = details.get("teacher_pretrained") is False or "--no-teacher-pretrained" in str(details.get("command"))
    if not name or own_file or random:
        return None, None
    scheme, _, repo = name.rpartition(":")
    if scheme:
        return (repo.partition("@")[0], None) if scheme == "hf-hub" else (None, None)
    known = timm.get_pretrained_cfg(name)
    return (known.hf_hub_id, known.license) if known and known.hf_hub_id else (None, None)
