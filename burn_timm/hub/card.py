"""The model card of an export folder: what fills the template card.md, and the terms of the weights."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from .. import tables
from ..checkpoints import burn_models, load_model, model_source
from ..configs import read_config
from ..counting import count
from ..errors import BurnError
from ..files import atomic_write, write_json, write_text
from ..methods import METHODS
from .figures import Row, figures_table, in_words, protocols, rows_of_run
from .terms import Terms, public, terms_of

HERE = "local-dir:PATH_OF_THIS_FOLDER"


@dataclass(frozen=True)
class Chosen:
    """What whoever publishes the weights says of them, instead of what the names of data and teacher tell.

    Attributes:
        license: The Hub's id; license_name, license_link: with `other`.
        dataset_id: Hub ids of the training images.
        teacher_labels: Whether the teacher was trained with labels.
    """

    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    dataset_id: Sequence[str] = ()
    teacher_labels: bool | None = None


def render_card(
    folder: Path, details: dict, rows: Sequence[Row] = (), repo: str | None = None, tag: str | None = None,
    chosen: Chosen | None = None, picture: str | None = None,
) -> str:
    """The card of the network in `folder`, which holds config.json and model.safetensors.

    Args:
        details: Summary of the run that trained it; what is missing in it is left out of the card.
        rows: Its results; none: the kNN figures of the run itself, where it has some.
        repo: OWNER/NAME of the Hub repository that usage is shown for. tag: a name of timm's, instead.
        chosen: Default: what the terms of the training data and the teacher's licence ask for.
        picture: Address of the training curves, if there are some.

    Raises:
        BurnError: config.json is wrong, or a name or the licence is impossible.
    """
    config, chosen = read_config(folder), chosen or Chosen()
    for option, ids in (("--repo", [repo] if repo else []), ("--dataset-id", chosen.dataset_id)):
        for name in ids:
            require_id(option, name, owner=option == "--repo")
    size = (config.get("pretrained_cfg") or {}).get("input_size") or (3, 224, 224)
    if tag in timm.list_pretrained():  # users of this name get the size of its registration, whatever the folder's
        size = timm.get_pretrained_cfg(tag).input_size
    rows = list(rows) or rows_of_run(details)
    data = next(filter(None, map(terms_of, (str(details.get("dataset", "")), *chosen.dataset_id))), None)
    license = _license(details, data, chosen)
    name = repo.partition("/")[2] if repo else tag or config["architecture"]
    bytes_ = (folder / "model.safetensors").stat().st_size
    classes = config.get("num_classes")
    card = ModelCard.from_template(
        _front(config, details, rows, data, name, chosen, license), str(Path(__file__).with_name("card.md")), name=name,
        tag=tag, where=tag or (f"hf-hub:{repo}" if repo else HERE), size=size, picture=picture, rows=rows,
        gives=f"{classes} logits" if classes else f"{config.get('num_features')} features",
        introduction=_introduction(config, details, rows, bytes_, data, chosen),
        packed=(config.get("model_args") or {}).get("weight_bits") == 1, compared=any(row.untrained for row in rows),
        teacher_knn=tables.number(details["knn_teacher"], 2, 100) if "knn_teacher" in details else None,
        figures=figures_table(rows), protocols=protocols(rows), sizes=_sizes(config, bytes_, size[-1]),
        training=_training(details, data, chosen, size[-1]), command=public(details.get("command") or ""),
        terms=_terms(details, data, license[0]),
    )
    return f"{str(card).rstrip()}\n"


def describe(folder: Path, details: dict, curves: Path | None = None, repo: str | None = None) -> None:
    """Write into an export folder what tells of its weights: training.json (`details`), curves.png and README.md."""
    if details:
        write_json(folder / "training.json", details)
    picture = "curves.png" if curves is not None and curves.is_file() else None
    if picture:
        with atomic_write(folder / picture) as beside:
            shutil.copyfile(curves, beside)
    write_text(folder / "README.md", render_card(folder, details, repo=repo, picture=picture))


def require_id(option: str, name: str, owner: bool) -> None:
    """Raise BurnError unless `name` may be a repository of the Hub, with its owner where `owner`."""
    try:
        validate_repo_id(name)
        fits = "/" in name or not owner
    except HFValidationError:
        fits = False
    if not fits:
        raise BurnError(f"{option} {name}: expected OWNER/NAME")


def _published_teacher(details: dict) -> Any | None:
    """timm's configuration of the teacher where its weights are timm's own, or are taken from a repository."""
    name = details.get("teacher")
    if not name or details.get("teacher_checkpoint") or details.get("teacher_pretrained") is False:
        return None
    scheme, repo = model_source(name)
    if scheme:
        return timm.models.PretrainedCfg(hf_hub_id=repo.partition("@")[0]) if scheme == "hf-hub" else None
    known = timm.get_pretrained_cfg(name)
    return known if known and known.hf_hub_id else None


def _license(details: dict, data: Terms | None, choice: Chosen) -> tuple[str, str | None, str | None]:
    """Licence id, and name and link where it is `other`: what the user says, within the terms of data and teacher."""
    chosen, named = choice.license, (choice.license_name, choice.license_link)
    if any(named) and (chosen != "other" or not all(named)):
        raise BurnError("--license other, --license-name and --license-link go together; give all three, or another id")
    own = ("other", data.license_name, data.link) if data and data.commercial is False else None
    teacher = getattr(_published_teacher(details), "license", None)
    restricted = own or ((teacher, None, None) if "-nc" in str(teacher) else None)
    if chosen is None:
        return restricted or ("apache-2.0" if data and data.commercial else "unknown", None, None)
    for option, text in (("--license", chosen), ("--license-name", named[0])):
        if text is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", text):
            raise BurnError(f"{option} {text}: expected lower-case letters, digits, dots and hyphens")
    if chosen == "other":
        if not all(named) and own is None:
            raise BurnError("--license other: the Hub wants its name and address: --license-name and --license-link")
        return ("other", *named) if all(named) else own
    if restricted and "-nc" not in chosen and "research" not in chosen:
        cause = f"on {data.name}, whose terms are" if own else f"with a teacher under {teacher}, which is"
        raise BurnError(f"--license {chosen}: the weights were trained {cause} non-commercial; such is cc-by-nc-4.0")
    return chosen, None, None


def _labels(details: dict, chosen: Chosen) -> str:
    """How labels entered: `with`, `without` or `teacher`; an empty string where nothing tells the method."""
    method, teacher = METHODS.get(details.get("method")), _published_teacher(details)
    if method is None or method.needs_labels:
        return "with" if method else ""
    from_teacher = chosen.teacher_labels
    if from_teacher is None:
        from_teacher = bool(teacher and teacher.license and teacher.num_classes)  # timm's weights with a classifier
    return "teacher" if from_teacher and details.get("teacher") else "without"


def _front(
    config: dict, details: dict, rows: Sequence[Row], data: Terms | None, name: str, chosen: Chosen,
    license: tuple[str, str | None, str | None],
) -> ModelCardData:
    tags = ["timm", "burn-timm"]
    tags += ["binary-neural-network"] if config["architecture"] in burn_models() else []
    tags += {"without": ["self-supervised-learning"], "teacher": ["knowledge-distillation"]}.get(
        _labels(details, chosen), [])
    results, teacher = [row.eval_result() for row in rows], _published_teacher(details)
    return ModelCardData(
        library_name="timm", license=license[0], license_name=license[1], license_link=license[2],
        pipeline_tag="image-classification" if config.get("num_classes") else "image-feature-extraction",
        tags=tags + ([details["method"]] if details.get("method") else []),
        datasets=list(chosen.dataset_id) or ([data.hub_id] if data and data.hub_id else None),
        base_model=teacher.hf_hub_id if teacher else None, model_name=name, eval_results=results or None,
        metrics=sorted({result.metric_type for result in results}) or None,
    )


def _introduction(
    config: dict, details: dict, rows: Sequence[Row], bytes_: int, data: Terms | None, chosen: Chosen,
) -> str:
    classes, bits = config.get("num_classes"), (config.get("model_args") or {}).get("weight_bits")
    purpose = " for devices with little memory" if bits == 1 else ""
    gives = f"turns a picture into {config.get('num_features', 'some')} numbers to search, sort or classify pictures by"
    gives = f"tells which of {classes} classes a picture shows" if classes else gives
    text = f"A {bytes_ / 1e6:.{1 if bytes_ > 1e6 else 2}f} MB image network{purpose}: it {gives}"
    text += f"; {in_words(rows[0])}.\n\n" if rows else ".\n\n"
    text += {1: "The weights and activations of its convolutions have one bit. ", 32: "Its weights have 32 bits. "}.get(
        bits, "")
    text += f"It is a `{config['architecture']}` for [timm](https://github.com/huggingface/pytorch-image-models)"
    if details.get("method"):
        labels = {
            "with": ", with their labels", "without": ", without labels",
            "teacher": "; no label of these images was read: labels enter through the teacher alone",
        }.get(_labels(details, chosen), "")
        images = _images(details, data, chosen)
        text += f", trained by burn-timm with `--method {details['method']}` on {images}{labels}"
    return f"{text}."


def _images(details: dict, data: Terms | None, chosen: Chosen) -> str:
    """The training images: the names of known data sets, and how many there were."""
    described = str(details.get("dataset"))
    counts = described[described.find(",") :] if "," in described else ""
    if chosen.dataset_id:
        return " and ".join(f"[{name}](https://huggingface.co/datasets/{name})" for name in chosen.dataset_id) + counts
    if data is None or terms_of(described) is not data:
        return public(described)
    part, name = ("a subset of ", data.name[12:]) if data.name.startswith("a subset of ") else ("", data.name)
    name = f"[{name}](https://huggingface.co/datasets/{data.hub_id})" if data.hub_id else name
    return f"{part}{name}{counts}"


def _training(details: dict, data: Terms | None, chosen: Chosen, used: int) -> dict[str, Any]:
    """Facts of the run, in words, by their names."""
    most = f", at most {details['max_steps']} steps" if details.get("max_steps") else ""
    hardware, teacher = details.get("hardware") or {}, details.get("teacher") or ""
    facts = {
        "trained by": details.get("trained_by"), "metric at the end": details.get("metric"),
        "method": details.get("method"),
        "teacher": teacher + (" (from the root of the burn-timm repository)" if teacher.startswith("local") else ""),
        "data": _images(details, data, chosen) if details.get("dataset") else None,
        "stages": " -> ".join(details.get("stages") or []),
        "a stage": f"{details['epochs']} epochs{most}" if details.get("epochs") else None,
        "images": f"{details['img_size']} px" if details.get("img_size") else None,
        "used at": f"{used} px" if details and used != details.get("img_size") else None,
        "batch": details.get("total_batch_size"), "seed": details.get("seed"),
        "precision": details.get("mixed_precision"), "hardware": hardware.get("gpu") or hardware.get("cpu"),
        "time": f"{details['train_seconds'] / 60:.0f} min" if details.get("train_seconds") else None,
        "commit": details.get("commit"),
        "versions": ", ".join(f"{name} {version}" for name, version in (details.get("versions") or {}).items()),
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _sizes(config: dict, bytes_: int, side: int) -> str:
    if config["architecture"] not in burn_models():
        return f"`model.safetensors` has {bytes_:,} bytes."
    kwargs = {"num_classes": config.get("num_classes"), **(config.get("model_args") or {})}
    counts = count(load_model(config["architecture"], device="meta", **kwargs), side)
    lines = {
        "`model.safetensors`, bytes": bytes_, "the same as 32-bit floats": counts["bytes_fp32"],
        "parameters": counts["params"], "... of one bit": counts["binary_params"],
        f"multiply-accumulates of one bit (BOPs), {side} px": counts["bops"],
        "... of 32 bits (FLOPs)": counts["flops"], "... together: FLOPs + BOPs / 64": counts["ops"],
    }
    return tables.markdown(["", ""], [[name, f"{value:,.0f}"] for name, value in lines.items()])


def _terms(details: dict, data: Terms | None, license_id: str) -> str:
    teacher = _published_teacher(details)
    parts = ["burn-timm does not know the terms of the training images; whoever publishes the weights does."]
    if data:
        parts = [f"Trained on {data.name}: {data.text}{f' ([terms]({data.link}))' if data.link else ''}."]
        if data.commercial is False:
            parts.append("That makes these weights non-commercial too, whatever the licence of the code.")
    if teacher and teacher.license:
        parts.append(f"The teacher's weights, `{teacher.hf_hub_id}`, are under {teacher.license}.")
    if license_id == "unknown":
        parts.append("So no licence is stated for the weights.")
    return "\n".join(parts)
