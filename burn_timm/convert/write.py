"""A converted network as a folder that timm loads: config.json, model.safetensors, README.md and LICENSE."""

import re
from pathlib import Path

import timm
from huggingface_hub import ModelCardData
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..checkpoints import save_folder
from ..errors import BurnError
from ..files import atomic_folder, require_replaceable
from ..packing import STAGES
from .conversion import Converted
from .origins import MIT_TEXT, Origin, licence_line

_CONVERTED = "Weights converted from"  # the first words of the file LICENSE
FILES = ("config.json", "model.safetensors", "README.md", "LICENSE")
_KINDS = {
    None: "", "w1a1": ", 1-bit weights and activations, packed",
    "w32a1": ", real weights and 1-bit activations (stage 1)",
}
_CARD = """\
---
{front}
---
# {model} converted from {title}

```python
import burn_timm, timm
model = timm.create_model("local-dir:PATH_OF_THIS_FOLDER", pretrained=True).eval()
output = model(images)  # [B, 3, H, W] -> {gives}
```

Origin: {origin}. Layout `{layout}`, part `{part}`{kind}.
{told}
Images {images}: `timm.data.create_transform(**timm.data.resolve_model_data_config(model))`.
timm's own scripts run by `python -m burn_timm train.py ...`.

Licence: {licence} The file LICENSE says it too.

What became of the file's tensors:

{report}

```
{command}
```
"""


def write_folder(converted: Converted, folder: Path, command: str, license_id: str | None = None) -> int:
    """Write the folder, whole or not at all; 1-bit weights are packed. Returns the bytes of model.safetensors.

    Args:
        folder: A new folder, or one of an earlier conversion.
        command: How it was made, for the card.
        license_id: The Hub's identifier of a licence, instead of that of the layout's origin.
    """
    if license_id is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license_id):
        raise BurnError(f"--license {license_id}: must be an identifier of the Hub, such as mit or cc-by-nc-4.0")
    require_replaceable(folder, FILES)
    origin = converted.origin
    model = timm.create_model(converted.model_name, num_classes=converted.num_classes, **converted.model_args)
    model.load_state_dict(converted.state_dict)
    of_others = ("test_", "hf_hub", "url", "paper_name")
    config = {key: value for key, value in model.pretrained_cfg.items() if not key.startswith(of_others)}
    if origin.interpolation:
        config |= {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, "crop_pct": 0.875, "crop_mode": "center",
                   "interpolation": origin.interpolation}
    model.pretrained_cfg = config | {
        "tag": converted.layout, "license": license_id or origin.license, "origin_url": origin.url or None,
        "paper_ids": [f"arXiv:{paper}" for paper in origin.papers] or None, "num_classes": converted.num_classes,
    }
    size = {"input_size": config["input_size"], "crop_pct": config["crop_pct"]}
    bits = STAGES[converted.stage][0] if converted.stage else 32
    with atomic_folder(folder) as beside:
        save_folder(beside, model, bits, converted.model_args, size)
        (beside / "README.md").write_text(_card(converted, command, license_id))
        (beside / "LICENSE").write_text(_licence_text(origin, license_id))
        return (beside / "model.safetensors").stat().st_size


def origin_told(folder: Path) -> str:
    """The first line of a converted folder's LICENSE: where its weights are from. Empty for other folders."""
    file = folder / "LICENSE"
    line = file.read_text(encoding="utf-8", errors="replace").partition("\n")[0] if file.is_file() else ""
    return line if line.startswith(_CONVERTED) else ""


def _licence_text(origin: Origin, license_id: str | None) -> str:
    """The file LICENSE: on which terms the weights are, and the notice that these want kept."""
    text = f"{_CONVERTED} {origin}.\nLicence: {licence_line(origin, license_id)}\n"
    if origin.holder and not license_id:
        text += f"\n{origin.holder}\n" + (f"\n{MIT_TEXT}" if origin.license == "mit" else "")
    return text


def _card(converted: Converted, command: str, license_id: str | None) -> str:
    """README.md with front matter for the Hub: where the weights are from, on which terms, what became of each."""
    origin = converted.origin
    licence, license_id = licence_line(origin, license_id), license_id or origin.license
    extra = {"license_name": "see-origin", "license_link": "LICENSE"} if license_id == "other" else {}
    task = "image-classification" if converted.num_classes else "image-feature-extraction"
    tags = ["timm", "burn-timm", *(["binary-neural-network"] if converted.stage else []), converted.layout]
    front = ModelCardData(library_name="timm", pipeline_tag=task, license=license_id, tags=tags, **extra)
    told = "The layout was told by the file's keys." if converted.by_keys else "The layout was given by --from."
    if converted.by_keys and origin.url:
        told += (f" Others who train with the same code leave the same keys: if it was not {origin.title}'s authors, "
                 "their terms count; state them by --license.")
    return _CARD.format(
        front=front.to_yaml(), model=converted.model_name, title=origin.title, origin=origin, layout=converted.layout,
        part=converted.part, kind=_KINDS[converted.stage], told=told, command=command,
        gives=f"{converted.num_classes} logits" if converted.num_classes else "pooled features",
        images="as the original evaluates them" if origin.url else "as is usual, for the file tells nothing",
        licence=licence, report="\n".join(f"- {line}" for line in converted.ledger.lines()),
    )
