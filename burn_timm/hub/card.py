"""The model card of an export folder: front matter, usage, figures, training, size, terms."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import timm

from ..checkpoints import burn_models
from ..counting import count
from ..errors import BurnError
from ..methods import METHODS
from .front import Chosen, front_matter, teacher_weights
from .measured import Row, figures_table, protocols, rows_of_run, without_baseline
from .metadata import NAME, card_errors
from .terms import Terms, terms_of

HERE = "local-dir:PATH_OF_THIS_FOLDER"
_CITATIONS = {
    "burn": """@inproceedings{kim2022burn,
  title = {Unsupervised Representation Learning for Binary Networks by Joint Classifier Learning},
  author = {Kim, Dahyun and Choi, Jonghyun},
  booktitle = {CVPR},
  year = {2022},
  url = {https://arxiv.org/abs/2110.08851}
}""",
    "reactnet": """@inproceedings{liu2020reactnet,
  title = {{ReActNet}: Towards Precise Binary Neural Network with Generalized Activation Functions},
  author = {Liu, Zechun and Shen, Zhiqiang and Savvides, Marios and Cheng, Kwang-Ting},
  booktitle = {ECCV},
  year = {2020},
  url = {https://arxiv.org/abs/2003.03488}
}""",
}


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
        BurnError: config.json cannot be read, a name or the licence is impossible, or the card breaks the Hub's rules.
    """
    config = read_json(folder / "config.json")
    architecture = config.get("architecture")
    if not isinstance(architecture, str):
        raise BurnError(f"{folder / 'config.json'}: architecture must be the name of a model")
    if tag in timm.list_pretrained():  # users of this name get the size of its registration, whatever the folder's
        size = timm.get_pretrained_cfg(tag).input_size
        config["pretrained_cfg"] = {**(config.get("pretrained_cfg") or {}), "input_size": size}
    if repo is not None and not re.fullmatch(f"{NAME}/{NAME}", repo):
        raise BurnError(f"--repo {repo}: expected OWNER/NAME")
    rows = list(rows) or rows_of_run(details, architecture)
    chosen = chosen or Chosen()
    names = (str(details.get("dataset", "")), *chosen.dataset_id)
    data = next((terms for terms in map(terms_of, names) if terms), None)
    name = repo.partition("/")[2] if repo else tag or architecture
    front = front_matter(config, details, rows, data, name, chosen)
    sections = [
        f"# {front.model_name}", _introduction(architecture, config, details), _usage(config, repo, tag),
        _figures(rows, details), _training(config, details, data, picture), _size(folder, config),
        _limits(config, rows), _terms(details, data, front.license), _citations(architecture, details),
    ]
    card = f"---\n{front.to_yaml()}\n---\n\n" + "\n\n".join(section for section in sections if section) + "\n"
    if errors := card_errors(card):
        raise BurnError(f"the card of {folder} breaks a rule of the Hub: {errors[0]}")
    return card


def read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BurnError(f"{path}: cannot be read ({error}); expected the file of an export folder") from error
    if not isinstance(content, dict):
        raise BurnError(f"{path}: not a JSON object")
    return content


def _introduction(architecture: str, config: dict, details: dict) -> str:
    bits = (config.get("model_args") or {}).get("weight_bits")
    kind = {1: "weights and activations of 1 bit", 32: "weights of 32 bits"}.get(bits)
    how = f"`{architecture}`" + (f", {kind}," if kind else "")
    if not details.get("method"):
        return f"{how} for [timm](https://github.com/huggingface/pytorch-image-models), packed by burn-timm."
    method = METHODS.get(details["method"])
    labels = "" if method is None else ", with its labels" if method.needs_labels else ", without labels"
    return f"{how} trained by burn-timm with `--method {details['method']}` on {details['dataset']}{labels}."


def _usage(config: dict, repo: str | None, tag: str | None) -> str:
    where = tag or (f"hf-hub:{repo}" if repo else HERE)
    channels, height, width = (config.get("pretrained_cfg") or {}).get("input_size") or (3, 224, 224)
    gives = f"{config['num_classes']} logits" if config.get("num_classes") else f"{config.get('num_features')} features"
    return f"""## Usage

```python
import burn_timm, timm
model = timm.create_model("{where}", pretrained=True).eval()
output = model(images)  # [B, {channels}, {height}, {width}] -> {gives} an image
```

`pip install burn-timm`. `timm.data.create_transform(**timm.data.resolve_model_data_config(model))` prepares images as
in the measurements; `features_only=True` and `num_classes=N` work as for any timm model."""


def _figures(rows: list[Row], details: dict) -> str:
    if not rows:
        return "## Figures\n\nNone were measured."
    teacher = ""
    if "knn_teacher" in details:
        teacher = f" The teacher's kNN in the same run: {100 * details['knn_teacher']:.2f}."
    head = f"## Figures\n\nIn %, of frozen features unless the task says otherwise.{teacher}"
    parts = [head, figures_table(rows), without_baseline(rows), "How they were measured:", protocols(rows)]
    return "\n\n".join(part for part in parts if part)


def _training(config: dict, details: dict, data: Terms | None, picture: str | None) -> str:
    if not details:
        return "## Training\n\nNothing in the folder tells how these weights were trained."
    most = f", at most {details['max_steps']} steps" if details.get("max_steps") else ""
    hardware = details.get("hardware") or {}
    used = (config.get("pretrained_cfg") or {}).get("input_size", [None])[-1]
    lines = {
        "method": details.get("method"), "teacher": details.get("teacher"), "data": details.get("dataset"),
        "stages": " -> ".join(details.get("stages") or []),
        "a stage": f"{details['epochs']} epochs{most}" if details.get("epochs") else None,
        "images": f"{details['img_size']} px" if details.get("img_size") else None,
        "used at": f"{used} px" if used not in (None, details.get("img_size")) else None,
        "batch": details.get("total_batch_size"), "seed": details.get("seed"),
        "precision": details.get("mixed_precision"), "hardware": hardware.get("gpu") or hardware.get("cpu"),
        "time": f"{details['train_seconds'] / 60:.0f} min" if details.get("train_seconds") else None,
        "commit": details.get("commit"),
        "versions": ", ".join(f"{name} {version}" for name, version in (details.get("versions") or {}).items()),
    }
    told = (f"* {name}: {value}" for name, value in lines.items() if value not in (None, ""))
    text = "## Training\n\n" + "\n".join(told)
    if details.get("command"):
        text += f"\n\n```\n{details['command']}\n```"
    return text + (f"\n\n![Curves of the training]({picture})" if picture else "")


def _size(folder: Path, config: dict) -> str:
    size = (folder / "model.safetensors").stat().st_size
    text = f"## Size and operations\n\n`model.safetensors` has {size:,} bytes."
    if config["architecture"] not in burn_models():
        return text
    model = timm.create_model(config["architecture"], device="meta", **(config.get("model_args") or {}))
    side = ((config.get("pretrained_cfg") or {}).get("input_size") or [224])[-1]
    counts = count(model, side)
    cells = " | ".join(f"{counts[key]:,.0f}" for key in ("params", "binary_params", "flops", "bops", "ops"))
    return f"""{text} As 32-bit floats they would be {counts['bytes_fp32']:,}. For one image of {side} px, in
multiply-accumulates:

| parameters | of 1 bit | FLOPs | BOPs | OPs = FLOPs + BOPs / 64 |
|---|---|---|---|---|
| {cells} |"""


def _limits(config: dict, rows: list[Row]) -> str:
    binary = config["architecture"] in burn_models()
    speed = """* In PyTorch it computes with floats and is no faster than a float network: the file is small, and only
  an engine with 1-bit kernels turns the operations above into time.
""" if binary else ""
    measured = "Only the figures above are measured" if rows else "Nothing is measured"
    return f"""## Intended use and limits

* Meant as frozen features or as a start for fine-tuning where memory is scarce, and for research on small networks.
{speed}* {measured}; on other kinds of images, and at other sizes, measure before you rely on it.
* It has learnt what its images show, their imbalances included. No test of fairness between groups of people was made.
* Not for recognising, tracking or judging people. The authors of BURN point out that better vision on cheap devices
  also makes it easier to watch whole populations and to read out private attributes, which they do not intend, and
  suggest to give code and weights only to those who pass a review of security and ethics. Whoever builds on these
  weights carries that responsibility."""


def _terms(details: dict, data: Terms | None, license_id: str) -> str:
    base, teacher_license = teacher_weights(details)
    parts = []
    if data:
        link = f" ([terms]({data.link}))" if data.link else ""
        parts.append(f"Trained on {data.name}: {data.text}{link}.")
        if data.commercial is False:
            parts.append("That makes these weights non-commercial too, whatever the licence of the code.")
    else:
        parts.append("burn-timm does not know the terms of the training images; whoever publishes the weights does.")
    if teacher_license:
        parts.append(f"The teacher's weights, `{base}`, are under {teacher_license}.")
    if license_id == "unknown":
        parts.append("So no licence is stated for the weights.")
    return "## Terms\n\n" + "\n".join([*parts, "The code of burn-timm is under Apache-2.0."])


def _citations(architecture: str, details: dict) -> str:
    used = [_CITATIONS["burn"]] if details.get("method", "burn") == "burn" else []
    used += [_CITATIONS["reactnet"]] if architecture in burn_models() else []
    return "## Citation\n\n```bibtex\n" + "\n".join(used) + "\n```" if used else ""
