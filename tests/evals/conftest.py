"""Checkpoints of every kind, and a data set in VOC2007's layout, for the tests of whole tasks."""

import shutil

import numpy as np
import pytest
import timm
import torch
from exported import write_export
from PIL import Image
from sklearn.datasets import load_digits

from burn_timm.checkpoints import save_latent
from burn_timm.data.published import VOC_CLASSES as CLASSES
from burn_timm.evals.detection import network

BOX = "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>30</xmax>" \
      "<ymax>28</ymax></bndbox></object>"


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    """Options that name a network and its weights: packed and latent files, a floating-point timm model's, and a
    folder as training exports it."""
    root = tmp_path_factory.mktemp("exports")
    torch.manual_seed(11)  # not what an evaluation without weights draws
    model = timm.create_model("test_reactnet", num_classes=0)
    folder = write_export(root / "folder", model, weight_bits=1, act_bits=1)
    shutil.copy(folder / "model.safetensors", root / "packed.safetensors")
    save_latent(root / "latent.safetensors", model.state_dict(), "test_reactnet", 1)
    torch.save(timm.create_model("test_resnet", num_classes=0).state_dict(), root / "float.pth")
    return {
        "packed": ["--model", "test_reactnet", "--checkpoint", str(root / "packed.safetensors")],
        "latent": ["--model", "test_reactnet", "--checkpoint", str(root / "latent.safetensors")],
        "float": ["--model", "test_resnet", "--checkpoint", str(root / "float.pth")],
        "folder": ["--model", f"local-dir:{folder}"],
    }


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """VOC2007's layout: digits 0 and 1 as aeroplanes and bicycles, with a box each, some difficult."""
    root = tmp_path_factory.mktemp("voc") / "VOCdevkit" / "VOC2007"
    for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True)
    digits, number = load_digits(), 0
    for split, count in {"trainval": 48, "test": 12}.items():
        marks = []
        for _ in range(count):
            while digits.target[number] > 1:
                number += 1
            kind, name = int(digits.target[number]), f"{number:06}"
            pixels = (digits.images[number] * 15).astype(np.uint8)
            Image.fromarray(pixels).convert("RGB").resize((48, 40)).save(root / "JPEGImages" / f"{name}.jpg")
            difficult = int(number % 11 == 5)
            size = "<size><width>48</width><height>40</height><depth>3</depth></size>"
            (root / "Annotations" / f"{name}.xml").write_text(
                f"<annotation><filename>{name}.jpg</filename>{size}{BOX.format(CLASSES[kind], difficult)}</annotation>")
            marks.append((name, kind, difficult))
            number += 1
        parts = {"train": marks[:36], "val": marks[36:], split: marks} if split == "trainval" else {split: marks}
        for part, members in parts.items():
            (root / "ImageSets" / "Main" / f"{part}.txt").write_text("".join(f"{name}\n" for name, *_ in members))
            for index, kind in enumerate(CLASSES):
                lines = (f"{name} {(0 if hard else 1) if own == index else -1}\n" for name, own, hard in members)
                (root / "ImageSets" / "Main" / f"{kind}_{part}.txt").write_text("".join(lines))
    return root.parent.parent


@pytest.fixture
def narrow_pyramid(monkeypatch):
    """A detector's head of 400 thousand weights instead of 14 million."""
    monkeypatch.setattr(network, "MLP_CHANNELS", 32)
