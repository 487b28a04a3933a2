"""The model card of an export folder: what fills the template card.md."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from .. import tables
from ..checkpoints import load_model, model_source
from ..configs import read_config
from ..counting import count
from ..errors import BurnError
from ..files import atomic_write, write_json, write_text
from ..identify import burn_models
from ..methods import METHODS
from .figures import Row, commands, figures_table, rows_of_run
from .terms import License, Terms, public, strictest

HERE = "local-dir:PATH_OF_THIS_FOLDER"


def render_card(
    folder: Path, details: dict, rows: Sequence[Row] = (), repo: str | None = None, tag: str | None = None,
    license: License | None = None, dataset_id: Sequence[str] = (), teacher_labels: bool | None = None,
) -> str:
    """The card of the network in `folder`, which holds config.json and model.safetensors, and curves.png if it has any.

    Args:
        details: Summary of the run that trained it; what is missing in it is left out of the card.
        rows: Its results; none: the kNN figures of the run itself, where it has some.
        repo: OWNER/NAME of the Hub repository that usage is shown for. tag: a name of timm's, instead.
        license: Default: what the terms of the training data and the teacher's licence ask for.
        dataset_id: Hub ids of the training images, where `details` do not tell.
        teacher_labels: Whether the teacher was trained with labels, where its name does not tell.

    Raises:
        BurnError: config.json is wrong, or a name or the licence is impossible.
    """
    config = read_config(folder)
    for option, ids in (("--repo", [repo] if repo else []), ("--dataset-id", dataset_id)):
        for one in ids:
            _require_id(option, one)
    size = (config.get("pretrained_cfg") or {}).get("input_size") or (3, 224, 224)
    if tag in timm.list_pretrained():  # users of this name get the size of its registration, whatever the folder's
        size = timm.get_pretrained_cfg(tag).input_size
    rows, teacher = list(rows) or rows_of_run(details), _published_teacher(details)
    data = strictest([name for name in (details.get("dataset"), *dataset_id) if name])
    license = (license or License()).within(data, getattr(teacher, "license", None))
    labels, images = _labels(details, teacher, teacher_labels), _images(details, data, dataset_id)
    name = repo.partition("/")[2] if repo else tag or config["architecture"]
    bytes_ = (folder / "model.safetensors").stat().st_size
    classes = config.get("num_classes")
    results = [row.eval_result() for row in rows]
    front = ModelCardData(
        library_name="timm", license=license.id, license_name=license.name, license_link=license.link,
        pipeline_tag="image-classification" if classes else "image-feature-extraction",
        tags=_tags(config, details, labels),
        datasets=list(dataset_id) or ([data.hub_id] if data and data.hub_id else None),
        base_model=teacher.hf_hub_id if teacher else None, model_name=name, eval_results=results or None,
        metrics=sorted({result.metric_type for result in results}) or None,
    )
    card = ModelCard.from_template(
        front, str(Path(__file__).with_name("card.md")), name=name, config=config, details=details, rows=rows, tag=tag,
        megabytes=f"{bytes_ / 1e6:.{1 if bytes_ > 1e6 else 2}f}",
        bits=(config.get("model_args") or {}).get("weight_bits"), size=size, images=images, labels=labels,
        where=tag or (f"hf-hub:{repo}" if repo else HERE),
        picture="curves.png" if (folder / "curves.png").is_file() else None,
        gives=f"{classes} logits" if classes else f"{config.get('num_features')} features",
        compared=any(row.untrained for row in rows),
        figures=figures_table(rows), commands=commands(rows, tag),
        teacher_knn=tables.number(details["knn_teacher"], 2, 100) if "knn_teacher" in details else None,
        sizes=_sizes(config, bytes_, size[-1]), training=_training(details, images),
        command=public(details.get("command") or ""), data=data, teacher=teacher, license=license,
    )
    return f"{str(card).rstrip()}\n"


def describe(folder: Path, details: dict, curves: Path | None = None, repo: str | None = None) -> None:
    """Write into an export folder what tells of its weights: training.json (`details`), curves.png and README.md."""
    if details:
        write_json(folder / "training.json", details)
    if curves is not None and curves.is_file():
        with atomic_write(folder / "curves.png") as beside:
            shutil.copyfile(curves, beside)
    write_text(folder / "README.md", render_card(folder, details, repo=repo))


def _require_id(option: str, name: str) -> None:
    """Raise BurnError unless `name` may be a repository of the Hub; --repo needs its owner."""
    try:
        validate_repo_id(name)
        fits = "/" in name or option != "--repo"
    except HFValidationError:
        fits = False
    if not fits:
        raise BurnError(f"{option} {name}: expected OWNER/NAME")


def _published_teacher(details: dict) -> Any | None:
    """timm's configuration of the teacher where its weights are timm's own, or are taken from a repository."""
    name = details.get("teacher")
    if not name or details.get("teacher_checkpoint") or details.get("teacher_pretrained") is False:
        return None
    scheme, place = model_source(name)
    repo = place.partition("@")[0]
    if scheme == "local-dir" or (scheme and not repo.startswith("timm/")):
        return timm.models.PretrainedCfg(hf_hub_id=repo, num_classes=None) if scheme == "hf-hub" else None
    name = repo.removeprefix("timm/") if scheme else name
    known = timm.get_pretrained_cfg(name) if timm.is_model(name.partition(".")[0]) else None
    return known if known and known.hf_hub_id else None


def _labels(details: dict, teacher: Any | None, teacher_labels: bool | None) -> str:
    """How labels entered: `with`, `without` or `teacher`; an empty string where nothing tells."""
    method = METHODS.get(details.get("method"))
    if method is None or method.needs_labels:
        return "with" if method else ""
    random = details.get("teacher_pretrained") is False and not details.get("teacher_checkpoint")
    if not details.get("teacher") or random:
        return "without"
    theirs = METHODS.get(details.get("teacher_method"))  # of a teacher that this package trained
    if teacher_labels is None and method.teacher_output == "logits":
        teacher_labels = True  # it learnt classes
    elif teacher_labels is None and theirs:
        teacher_labels = True if theirs.needs_labels else None if theirs.teacher_output else False
    elif teacher_labels is None and teacher and teacher.num_classes is not None:
        teacher_labels = bool(teacher.num_classes)  # timm's weights, with a classifier or without
    return {True: "teacher", False: "without", None: ""}[teacher_labels]


def _tags(config: dict, details: dict, labels: str) -> list[str]:
    tags = ["timm", "burn-timm"]
    tags += ["binary-neural-network"] if config["architecture"] in burn_models() else []
    tags += {"without": ["self-supervised-learning"], "teacher": ["knowledge-distillation"]}.get(labels, [])
    return tags + ([details["method"]] if details.get("method") else [])


def _images(details: dict, data: Terms | None, dataset_id: Sequence[str]) -> str:
    """The training images: the names of known data sets, and how many there were."""
    described = str(details.get("dataset"))
    counts = described[described.find(",") :] if "," in described else ""
    if dataset_id:
        return " and ".join(f"[{name}](https://huggingface.co/datasets/{name})" for name in dataset_id) + counts
    if data is None:
        return public(described)
    part, name = ("a subset of ", data.name[12:]) if data.name.startswith("a subset of ") else ("", data.name)
    return part + (f"[{name}](https://huggingface.co/datasets/{data.hub_id})" if data.hub_id else name) + counts


def _training(details: dict, images: str) -> dict[str, Any]:
    """Facts of the run, in words, by their names; all of it is in training.json."""
    most = f", at most {details['max_steps']} steps" if details.get("max_steps") else ""
    machine, teacher = details.get("hardware") or {}, details.get("teacher") or ""
    hardware = machine.get("cpu") if details.get("device") == "cpu" else machine.get("gpu") or machine.get("cpu")
    random_teacher = teacher and details.get("teacher_pretrained") is False and not details.get("teacher_checkpoint")
    minutes = {name: f"{details[name] / 60:.0f} min" for name in ("train_seconds", "cpu_seconds") if details.get(name)}
    facts = {
        "trained by": details.get("trained_by"), "metric at the end": details.get("metric"),
        "teacher": teacher + (" (from the root of the burn-timm repository)" if teacher.startswith("local") else "")
        + (" (random weights)" if random_teacher else ""),
        "data": images if details.get("dataset") else None,
        "stages": " -> ".join(details.get("stages") or []),
        "a stage": f"{details['epochs']} epochs{most}" if details.get("epochs") else None,
        "images": f"{details['img_size']} px" if details.get("img_size") else None,
        "batch": details.get("total_batch_size"), "seed": details.get("seed"),
        "precision": details.get("mixed_precision"), "hardware": hardware,
        "time": minutes.get("train_seconds"), "CPU time of the main process": minutes.get("cpu_seconds"),
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
