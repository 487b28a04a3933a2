"""The model card of an export folder: front matter, usage, figures, training, size, terms."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
from huggingface_hub import ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from .. import tables
from ..checkpoints import burn_models, load_model, model_source
from ..configs import read_config
from ..counting import count
from ..errors import BurnError
from ..methods import METHODS
from .figures import Row, figures_table, protocols, rows_of_run
from .terms import Terms, terms_of

HERE = "local-dir:PATH_OF_THIS_FOLDER"
_CARD = """\
---
{front}
---

# {name}

{introduction}

## Usage

```python
import burn_timm, timm
model = timm.create_model("{where}", pretrained=True).eval()
output = model(images)  # [B, {channels}, {height}, {width}] -> {gives} an image
```

`pip install burn-timm`. `timm.data.create_transform(**timm.data.resolve_model_data_config(model))` prepares images as
in the measurements; `features_only=True` and `num_classes=N` work as for any timm model. Only timm reads packed 1-bit
weights; for other loaders write floats first: `burn-timm unpack`.

## Figures

{figures}

## Training

{training}

## Size and operations

{size}

## Intended use and limits

* Meant as frozen features or as a start for fine-tuning where memory is scarce, and for research on small networks.
* In PyTorch a 1-bit network computes with floats and is no faster than a float network: the file is small, and only an
  engine with 1-bit kernels turns the operations above into time.
* {measured}; on other kinds of images, and at other sizes, measure before you rely on it.
* It has learnt what its images show, their imbalances included. No test of fairness between groups of people was made.
* Not for recognising, tracking or judging people. The authors of BURN point out that better vision on cheap devices
  also makes it easier to watch whole populations and to read out private attributes, which they do not intend, and
  suggest to give code and weights only to those who pass a review of security and ethics. Whoever builds on these
  weights carries that responsibility.

## Terms

{terms}
The code of burn-timm is under Apache-2.0.

## Citation

```bibtex
@inproceedings{{kim2022burn,
  title = {{Unsupervised Representation Learning for Binary Networks by Joint Classifier Learning}},
  author = {{Kim, Dahyun and Choi, Jonghyun}},
  booktitle = {{CVPR}},
  year = {{2022}},
  url = {{https://arxiv.org/abs/2110.08851}}
}}
@inproceedings{{liu2020reactnet,
  title = {{{{ReActNet}}: Towards Precise Binary Neural Network with Generalized Activation Functions}},
  author = {{Liu, Zechun and Shen, Zhiqiang and Savvides, Marios and Cheng, Kwang-Ting}},
  booktitle = {{ECCV}},
  year = {{2020}},
  url = {{https://arxiv.org/abs/2003.03488}}
}}
```
"""


@dataclass(frozen=True)
class Chosen:
    """What whoever publishes the weights says of them, instead of what the names of data and teacher tell.

    Attributes:
        license: The Hub's id; license_name, license_link: with `other`.
        dataset_id: Hub ids of the training images.
    """

    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    dataset_id: Sequence[str] = ()


def render_card(
    folder: Path, details: dict, rows: Sequence[Row] = (), repo: str | None = None, tag: str | None = None,
    chosen: Chosen | None = None, picture: str | None = None,
) -> str:
    """The card of the network in `folder`, which holds config.json and model.safetensors.

    Args:
        details: Summary of the run that trained it; what is missing in it is left out of the card.
        rows: Its results; none: the kNN figures of the run itself, where it has some.
        repo: OWNER/NAME of the Hub repository that usage is shown for. tag: a name of timm's, instead.
        chosen: Licence and data sets; default: what the terms of the training data and the teacher's licence ask for.
        picture: Address of the training curves, if there are some.

    Raises:
        BurnError: config.json is wrong, or a name or the licence is impossible.
    """
    config, chosen = read_config(folder), chosen or Chosen()
    settings = config.get("pretrained_cfg") or {}
    size = settings.get("input_size") or (3, 224, 224)
    if tag in timm.list_pretrained():  # users of this name get the size of its registration, whatever the folder's
        size = timm.get_pretrained_cfg(tag).input_size
    for option, ids in (("--repo", [repo] if repo else []), ("--dataset-id", chosen.dataset_id)):
        for name in ids:
            require_id(option, name, owner=option == "--repo")
    rows = list(rows) or rows_of_run(details)
    trained_on = (str(details.get("dataset", "")), *chosen.dataset_id)
    data = next((terms for terms in map(terms_of, trained_on) if terms), None)
    license = _license(details, data, chosen)
    name = repo.partition("/")[2] if repo else tag or config["architecture"]
    gives = f"{config['num_classes']} logits" if config.get("num_classes") else f"{config.get('num_features')} features"
    bytes_ = (folder / "model.safetensors").stat().st_size
    return _CARD.format(
        front=_front(config, details, rows, data, name, chosen, license).to_yaml(), name=name,
        introduction=_introduction(config, details, bytes_, gives),
        where=tag or (f"hf-hub:{repo}" if repo else HERE), channels=size[0], height=size[1], width=size[2], gives=gives,
        figures=_figures(rows, details), training=_training(details, data, picture, size[-1]),
        size=_size(config, bytes_, size[-1]), terms=_terms(details, data, license[0]),
        measured="Only the figures above are measured" if rows else "Nothing is measured",
    )


def require_id(option: str, name: str, owner: bool) -> None:
    """Raise BurnError unless `name` may be a repository of the Hub, with its owner where `owner`."""
    try:
        validate_repo_id(name)
        fits = "/" in name or not owner
    except HFValidationError:
        fits = False
    if not fits:
        raise BurnError(f"{option} {name}: expected OWNER/NAME")


def teacher_weights(details: dict) -> tuple[str | None, str | None]:
    """Repository of the teacher's weights and their licence, where timm or the Hub has them."""
    name, command = details.get("teacher") or "", str(details.get("command"))
    own_file = details.get("teacher_checkpoint") or "--teacher-checkpoint" in command
    random = details.get("teacher_pretrained") is False or "--no-teacher-pretrained" in command
    if not name or own_file or random:
        return None, None
    scheme, repo = model_source(name)
    if scheme:
        return (repo.partition("@")[0], None) if scheme == "hf-hub" else (None, None)
    known = timm.get_pretrained_cfg(name)
    return (known.hf_hub_id, known.license) if known and known.hf_hub_id else (None, None)


def _license(details: dict, data: Terms | None, choice: Chosen) -> tuple[str, str | None, str | None]:
    """Licence id, and name and link where it is `other`: what the user says, within the terms of data and teacher."""
    chosen, named = choice.license, (choice.license_name, choice.license_link)
    if any(named) and (chosen != "other" or not all(named)):
        raise BurnError("--license other, --license-name and --license-link go together; give all three, or another id")
    own = ("other", data.license_name, data.link) if data and data.commercial is False else None
    teacher = teacher_weights(details)[1]
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


def _front(
    config: dict, details: dict, rows: Sequence[Row], data: Terms | None, name: str, chosen: Chosen,
    license: tuple[str, str | None, str | None],
) -> ModelCardData:
    method = details.get("method")
    tags = ["timm", "burn-timm"]
    if config["architecture"] in burn_models():
        tags.append("binary-neural-network")
    if method in METHODS and not METHODS[method].needs_labels:
        tags.append("self-supervised-learning")
    results = [row.eval_result() for row in rows]
    return ModelCardData(
        library_name="timm", license=license[0], license_name=license[1], license_link=license[2],
        pipeline_tag="image-classification" if config.get("num_classes") else "image-feature-extraction",
        tags=tags + ([method] if method else []),
        datasets=list(chosen.dataset_id) or ([data.hub_id] if data and data.hub_id else None),
        base_model=teacher_weights(details)[0],
        metrics=sorted({result.metric_type for result in results}) or None, model_name=name,
        eval_results=results or None,
    )


def _introduction(config: dict, details: dict, bytes_: int, gives: str) -> str:
    kind = {1: "The weights and activations of its convolutions are of one bit.", 32: "Its weights are of 32 bits."}
    text = f"An image network of {bytes_ / 1e6:.1f} MB that turns a picture into {gives}."
    text += f" It is a `{config['architecture']}` for [timm](https://github.com/huggingface/pytorch-image-models). "
    text += kind.get((config.get("model_args") or {}).get("weight_bits"), "")
    if not details.get("method"):
        return text.strip()
    method = METHODS.get(details["method"])
    labels = "" if method is None else ", with its labels" if method.needs_labels else ", without labels"
    return f"{text}\n\nTrained by burn-timm with `--method {details['method']}` on {details['dataset']}{labels}."


def _figures(rows: list[Row], details: dict) -> str:
    if not rows:
        return "None were measured."
    text = "In %, of frozen features unless the task says otherwise; the untrained network has calibrated BatchNorm."
    if "knn_teacher" in details:
        text += f" The teacher's kNN in the same run: {100 * details['knn_teacher']:.2f}."
    return f"{text}\n\n{figures_table(rows)}\n\nHow they were measured:\n\n{protocols(rows)}"


def _training(details: dict, data: Terms | None, picture: str | None, used: int) -> str:
    if not details:
        return "Nothing in the folder tells how these weights were trained."
    most = f", at most {details['max_steps']} steps" if details.get("max_steps") else ""
    hardware = details.get("hardware") or {}
    lines = {
        "method": details.get("method"), "teacher": details.get("teacher"), "data": details.get("dataset"),
        "stages": " -> ".join(details.get("stages") or []),
        "a stage": f"{details['epochs']} epochs{most}" if details.get("epochs") else None,
        "images": f"{details['img_size']} px" if details.get("img_size") else None,
        "used at": f"{used} px" if used != details.get("img_size") else None,
        "batch": details.get("total_batch_size"), "seed": details.get("seed"),
        "precision": details.get("mixed_precision"), "hardware": hardware.get("gpu") or hardware.get("cpu"),
        "time": f"{details['train_seconds'] / 60:.0f} min" if details.get("train_seconds") else None,
        "commit": details.get("commit"),
        "versions": ", ".join(f"{name} {version}" for name, version in (details.get("versions") or {}).items()),
    }
    text = "\n".join(f"* {name}: {value}" for name, value in lines.items() if value not in (None, ""))
    text += f"\n\n```\n{details['command']}\n```" if details.get("command") else ""
    return text + (f"\n\n![Curves of the training]({picture})" if picture else "")


def _size(config: dict, bytes_: int, side: int) -> str:
    text = f"`model.safetensors` has {bytes_:,} bytes."
    if config["architecture"] not in burn_models():
        return text
    kwargs = {"num_classes": None, **(config.get("model_args") or {})}
    counts = count(load_model(config["architecture"], device="meta", **kwargs), side)
    cells = [f"{counts[key]:,.0f}" for key in ("params", "binary_params", "flops", "bops", "ops")]
    table = tables.markdown(["parameters", "of 1 bit", "FLOPs", "BOPs", "OPs = FLOPs + BOPs / 64"], [cells], 0)
    return (f"{text} As 32-bit floats they would be {counts['bytes_fp32']:,}. For one image of {side} px, in\n"
            f"multiply-accumulates:\n\n{table}")


def _terms(details: dict, data: Terms | None, license_id: str) -> str:
    base, teacher_license = teacher_weights(details)
    parts = ["burn-timm does not know the terms of the training images; whoever publishes the weights does."]
    if data:
        parts = [f"Trained on {data.name}: {data.text}{f' ([terms]({data.link}))' if data.link else ''}."]
        if data.commercial is False:
            parts.append("That makes these weights non-commercial too, whatever the licence of the code.")
    if teacher_license:
        parts.append(f"The teacher's weights, `{base}`, are under {teacher_license}.")
    if license_id == "unknown":
        parts.append("So no licence is stated for the weights.")
    return "\n".join(parts)
