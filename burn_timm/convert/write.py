"""A converted network as a folder that timm loads: config.json, model.safetensors, README.md and LICENSE."""

import re
from pathlib import Path

import timm
import torch
from huggingface_hub import ModelCardData
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..checkpoints import save_latent
from ..compat import save_model_config
from ..errors import BurnError
from ..files import atomic_folder, require_replaceable
from ..nn import binary_weight_names
from ..packing import pack_state_dict, save_packed, save_tensors
from .origins import MIT_TEXT, Origin, licence_line
from .source import Converted

CONVERTED = "Weights converted from"  # the first words of the file LICENSE
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
{images}: ImageNet's mean and standard deviation, centre crop of 224 from 256 px.

Licence: {licence} The file LICENSE says it too.

What became of the file's tensors:

{report}

```
{command}
```
"""


def build(converted: Converted) -> torch.nn.Module:
    """The timm model of a conversion, in eval mode, with every one of its tensors from the file.

    Raises:
        BurnError: A tensor is missing, too many, or of another shape; it names it.
    """
    model = timm.create_model(converted.model_name, num_classes=converted.num_classes, **converted.model_args)
    own, found = model.state_dict(), converted.state_dict
    path = converted.ledger.source.path
    for name in sorted(own.keys() ^ found.keys()):
        what = "is not filled by the file" if name in own else f"has no place in {converted.model_name}"
        raise BurnError(f"{path}: {name} {what}; is the file complete, and --from right?")
    for name, tensor in found.items():
        if tensor.shape != own[name].shape:
            raise BurnError(f"{path}: {name} is {list(tensor.shape)}, but {converted.model_name} has "
                            f"{list(own[name].shape)} there")
    model.load_state_dict(found)
    origin = converted.origin
    of_others = ("test_", "hf_hub", "url")
    config = {key: value for key, value in model.pretrained_cfg.items() if not key.startswith(of_others)}
    config |= {
        "tag": converted.layout, "crop_pct": 0.875, "interpolation": origin.interpolation, "crop_mode": "center",
        "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, "license": origin.license,
        "origin_url": origin.url or None, "paper_ids": [f"arXiv:{paper}" for paper in origin.papers] or None,
        "paper_name": None, "num_classes": converted.num_classes,
    }
    model.pretrained_cfg = model.default_cfg = config
    return model.eval()


def write_folder(converted: Converted, folder: Path, command: str, license_id: str | None = None) -> int:
    """Write the folder, whole or not at all; 1-bit weights are packed. Returns the bytes of model.safetensors.

    Args:
        converted: What to write.
        folder: A new folder, or one of an earlier conversion.
        command: How it was made, for the card.
        license_id: The Hub's identifier of a licence, instead of that of the layout's origin.
    """
    require_replaceable(folder, FILES)
    card = render_card(converted, command, license_id)
    model = build(converted)
    if license_id:
        model.pretrained_cfg["license"] = license_id
    state_dict = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_folder(folder) as beside:
        weights = beside / "model.safetensors"
        size = {"input_size": model.pretrained_cfg["input_size"], "crop_pct": 0.875}
        save_model_config(model, beside / "config.json", dict(converted.model_args), size)
        if converted.stage == "w1a1":
            save_packed(weights, pack_state_dict(state_dict, binary_weight_names(model)))
        elif converted.stage:
            save_latent(weights, state_dict, converted.model_name, 32, converted.model_args)
        else:
            save_tensors(weights, state_dict, {"format": "pt"})
        (beside / "README.md").write_text(card)
        (beside / "LICENSE").write_text(licence_text(converted.origin, license_id))
        return weights.stat().st_size


def licence_text(origin: Origin, license_id: str | None = None) -> str:
    """The file LICENSE: on which terms the weights are, and the notice that these want kept."""
    text = f"{CONVERTED} {origin}.\nLicence: {licence_line(origin, license_id)}\n"
    if origin.holder and not license_id:
        text += f"\n{origin.holder}\n" + (f"\n{MIT_TEXT}" if origin.license == "mit" else "")
    return text


def render_card(converted: Converted, command: str, license_id: str | None = None) -> str:
    """README.md with front matter for the Hub: where the weights are from, on which terms, what became of each."""
    origin = converted.origin
    if license_id is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license_id):
        raise BurnError(f"--license {license_id}: must be an identifier of the Hub, such as mit or cc-by-nc-4.0")
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
        images=f"Images as {'the original evaluates them' if origin.url else 'is usual, as the file tells nothing'}",
        licence=licence, report="\n".join(f"- {line}" for line in converted.ledger.lines()),
    )
