"""`burn-timm convert` on a file of every layout: its report line by line, and the folder that it writes."""

import json
from dataclasses import dataclass, field

import pytest
import timm
import torch
from huggingface_hub import ModelCard

from burn_timm.cli import main

from . import originals, teachers
from .originals import linear, neck, under
from .test_binary import burn, config_of

PAPERS = {
    "ReActNet": ("liuzechun/ReActNet", "2003.03488"), "S2-BNN": ("szq0214/S2-BNN", "2102.08946"),
    "BURN": ("naver-ai/burn", "2110.08851"), "MoCo v1": ("facebookresearch/moco", "1911.05722"),
    "MoCo v2": ("facebookresearch/moco", "2003.04297"), "SimSiam": ("facebookresearch/simsiam", "2011.10566"),
    "MoCo v1 or v2": ("facebookresearch/moco", "1911.05722", "2003.04297"),
    "SwAV": ("facebookresearch/swav", "2006.09882"), "Barlow Twins": ("facebookresearch/barlowtwins", "2103.03230"),
    "BYOL": ("google-deepmind/deepmind-research/tree/master/byol", "2006.07733"),
    "VICReg": ("facebookresearch/vicreg", "2105.04906"), "DINO": ("facebookresearch/dino", "2104.14294"),
    "VISSL": ("facebookresearch/vissl",), "solo-learn": ("vturrisi/solo-learn", "2108.01775"),
    "lightly": ("lightly-ai/lightly",),
}


@dataclass
class Case:
    """A file, the options, and what the report must say. `dropped`: count by reason, all of them."""

    content: object
    layout: str
    title: str
    licence: str
    part: str
    dropped: dict[str, int] = field(default_factory=dict)
    stage: str = ""
    options: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    terms: str = ""


def resnet_file(name):
    one, other = (teachers.network(seed=seed).state_dict() for seed in (1, 2))
    return getattr(teachers, name)(one, other)


N = 120  # tensors of a ResNet-18 without classifier
OWN = "does not tell who trained it"
NONE = "publishes no licence"
TEACHERS = {
    "moco_v1": ("moco", "MoCo v1", "mit", "encoder_q", {
        "another encoder; --part encoder_k converts it": N + 2, "queue of negatives": 2, "projection head": 2,
    }),
    "moco_v2": ("moco", "MoCo v2", "mit", "encoder_q", {"projection head": 4}),
    "moco_cut": ("moco", "MoCo v1 or v2", "mit", "encoder_q", {}),
    "simsiam": ("simsiam", "SimSiam", "cc-by-nc-4.0", "encoder", {"prediction head": 4, "projection head": 4}),
    "swav": ("swav", "SwAV", "cc-by-nc-4.0", "network", {"projection head": 4, "prototypes": 1}),
    "barlow": ("barlow", "Barlow Twins", "mit", "backbone", {
        "projection head": 4, "normalisation of the projections": 3,
    }),
    "vicreg": ("vicreg", "VICReg", "mit", "backbone", {"projection head": 4}),
    "byol_openselfsup": ("byol", "BYOL", "other", "online", {
        "another encoder; --part target converts it": N, "the same network as backbone": N, "projection head": 8,
        "prediction head": 4,
    }),
    "byol_sequential": ("byol", "BYOL", "other", "online", {
        "optimiser and training state": 1, "another encoder; --part target converts it": N, "projection head": 8,
    }),
    "byol_lightning": ("byol", "BYOL", "other", "online", {
        "another encoder; --part target converts it": N, "projection head": 8, "prediction head": 8,
    }),
    "byol_lucidrains": ("byol", "BYOL", "other", "online", {
        "another encoder; --part target converts it": N + 2, "projection head": 10, "prediction head": 4,
    }),
    "dino": ("dino", "DINO", "apache-2.0", "teacher", {
        "optimiser and training state": 1, "another encoder; --part student converts it": N, "projection head": 6,
    }),
    "vissl": ("vissl", "VISSL", "mit", "trunk", {"optimiser and training state": 1, "heads": 4}),
    "vissl_converted": ("vissl", "VISSL", "mit", "trunk", {}),
    "solo": ("solo", "solo-learn", "other", "backbone", {
        "optimiser and training state": 1, "another encoder; --part momentum_backbone converts it": N,
        "linear classifier": 4, "projection head": 8, "prediction head": 4, "queue": 2,
    }),
    "solo_old": ("solo", "solo-learn", "other", "encoder", {"linear classifier": 2, "projection head": 4}),
    "solo_simclr": ("solo", "solo-learn", "other", "backbone", {"linear classifier": 2, "projection head": 4}),
    "solo_deepcluster": ("solo", "solo-learn", "other", "backbone", {
        "linear classifier": 2, "projection head": 4, "prototypes": 1, "memory of features": 2,
    }),
    "lightly": ("lightly", "lightly", "other", "backbone", {
        "another encoder; --part backbone_momentum converts it": N, "projection head": 8, "prediction head": 4,
    }),
    "lightly_dino": ("lightly", "lightly", "other", "teacher_backbone", {
        "another encoder; --part student_backbone converts it": N, "projection head": 8, "loss": 1,
    }),
    "lightly_moco": ("lightly", "lightly", "other", "backbone", {
        "another encoder; --part key_backbone converts it": N, "projection head": 8, "linear classifier": 2, "loss": 1,
    }),
    "lightly_densecl": ("lightly", "lightly", "other", "backbone", {
        "another encoder; --part backbone_momentum converts it": N, "projection head": 12,
    }),
    "lightly_swav": ("lightly", "lightly", "other", "backbone", {"projection head": 4, "prototypes": 1}),
    "alone": ("encoder", "an encoder whose file does not tell its origin", "other", "network", {}),
}
NOTES = {"solo": ("method, as its settings say: mocov2plus",), "solo_simclr": ("method, as its settings say: simclr",)}
TERMS = {
    "reactnet": NONE, "s2bnn": NONE, "burn": "non-commercial use only", "moco": "its README went on to say CC BY-NC",
    "simsiam": "non-commercial", "swav": "non-commercial", "barlow": "MIT", "vicreg": "MIT", "dino": "Apache",
    "vissl": "keep their terms", "byol": "whoever trained or converted", "solo": OWN, "lightly": OWN, "encoder": OWN,
}


def teacher(name):
    return Case(resnet_file(name), *TEACHERS[name], notes=NOTES.get(name, ()))


def reactnet(weights, stage, *options):
    content = {"epoch": 255, "state_dict": under("module.", weights), "best_top1_acc": torch.tensor(69.4),
               "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}}
    dropped = {"optimiser and training state": 2}
    return Case(content, "reactnet", "ReActNet", "other", "network", dropped, stage, options)


def reactnet_a(stage):
    return reactnet(originals.reactnet_a(8, flat=stage == "w1a1") | linear(256, 10, "fc"), stage)


def reactnet_18(stage):
    return reactnet(originals.reactnet_18((8, 16, 32, 64)) | linear(64, 10, "fc"), stage, "--stage", stage)


def s2bnn(stage, contrastive=True):
    """With MoCo's queue and key encoder, or without, as by distillation alone."""
    content, mlp = {}, linear(256, 256, "fc.0") | linear(256, 16, "fc.2")
    for encoder in ("encoder_q", "encoder_k") if contrastive else ("encoder_q",):
        content |= under(f"module.{encoder}.", originals.reactnet_a(8, both=True) | mlp)
    dropped = {"branches that no block uses": 126}
    if contrastive:
        content |= {"module.queue": torch.randn(16, 64), "module.queue_ptr": torch.tensor([3])}
        dropped |= {"the other encoder; --part encoder_k converts it": 426, "queue of negatives": 2}
    dropped["projection head"] = 4
    content = {"epoch": 200, "arch": "resnet50", "state_dict": content}
    return Case(content, "s2bnn", "S2-BNN", "other", "encoder_q", dropped, stage, ("--stage", stage))


def burns(form, stage, keep):
    weights, _, whole = burn()
    dropped = {} if keep else {"hidden layer of the head; --keep-hidden keeps it": 2}
    options = ("--keep-hidden",) if keep else ()
    if form == "whole":
        content = {"state_dict": under("module.", whole), **config_of(stage)}
        dropped |= {"the same network as backbone": 298, "student's classifier": 9,
                    "teacher; --part teacher converts it": 120, "teacher's classifier": 9}
    elif form == "multi":
        content = {"backbone": {"state_dict": weights}, "classifier": {"state_dict": neck(256, "")},
                   "teacher_classifier": {"state_dict": neck(2048, "")}, "author": "OpenSelfSup"}
        dropped |= {"student's classifier": 9, "teacher's classifier": 9}
    else:
        content = {"state_dict": weights, "author": "OpenSelfSup"}
    if form != "whole":
        options += ("--stage", stage)
    return Case(content, "burn", "BURN", "cc-by-nc-4.0", "backbone", dropped, stage, options)


def burns_teacher():
    dropped = {"student and heads; --part backbone converts it": 298 * 2 + 9 * 2}
    note = "BURN's teacher was trained by others, and has their terms too; the paper's is MoCo v2's ResNet-50"
    return Case({"state_dict": burn()[2]}, "burn", "BURN", "cc-by-nc-4.0", "teacher", dropped,
                options=("--part", "teacher"), notes=(note,))


STAGES = ("w1a1", "w32a1")
CASES = {
    **{name: (teacher, name) for name in TEACHERS},
    **{f"{make.__name__}-{stage}": (make, stage) for make in (reactnet_a, reactnet_18, s2bnn) for stage in STAGES},
    "s2bnn-distilled": (s2bnn, "w1a1", False),
    **{f"burn-{form}-{stage}-{'hidden' if keep else 'headless'}": (burns, form, stage, keep)
       for form in ("whole", "multi", "backbone") for stage in STAGES for keep in (True, False)},
    "burn-teacher": (burns_teacher,),
}


def test_every_layout_that_we_know_is_here():
    from burn_timm.convert.detect import NAMES

    assert {make(*args).layout for make, *args in CASES.values() if make is not teacher} | {
        layout for layout, *_ in TEACHERS.values()} == set(NAMES)


@pytest.mark.parametrize("name", CASES)
def test_the_report(tmp_path, capsys, name):
    torch.manual_seed(0)
    make, *args = CASES[name]
    case = make(*args)
    path, folder = tmp_path / "checkpoint.pth.tar", tmp_path / "out"
    torch.save(case.content, path)
    assert main(["convert", str(path), str(folder), *case.options]) == 0
    lines = iter(capsys.readouterr().out.splitlines())
    stage = f", stage {case.stage}" if case.stage else ""
    assert next(lines) == f"layout: {case.layout}, by its keys; part {case.part}{stage}"
    repository, *papers = PAPERS.get(case.title, [None])
    links = [f"https://github.com/{repository}"] if repository else []
    links += [f"paper https://arxiv.org/abs/{paper}" for paper in papers]
    assert next(lines) == "origin: " + ", ".join([case.title, *links])

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    classes = f"{model.num_classes} classes" if model.num_classes else "no classifier"
    config = json.loads((folder / "config.json").read_text())
    line = next(lines)
    assert line.startswith(f"model: {config['architecture']}, ")
    assert line.endswith(f"{classes}; all of its {len(model.state_dict())} tensors filled")
    hidden = config["model_args"].get("head_hidden_size") if config.get("model_args") else None
    assert ("head_hidden_size 256" in line) == ("--keep-hidden" in case.options) == (hidden == 256)

    total = sum(1 for value in leaves(case.content) if isinstance(value, torch.Tensor))
    converted = total - sum(case.dropped.values())
    assert next(lines) == f"{total} tensors in the file: {converted} converted"
    for reason, count in case.dropped.items():
        assert next(lines).startswith(f"{count} dropped: {reason} (")
    for note in case.notes:
        assert next(lines) == note
    line = next(lines)
    assert line.startswith(f"licence: {case.licence}. ") and TERMS[case.layout] in line
    size = (folder / "model.safetensors").stat().st_size
    assert next(lines) == f"{folder / 'model.safetensors'}: {size:,} bytes"
    assert not list(lines)

    if make is teacher:
        with torch.no_grad():
            assert torch.equal(model(teachers.IMAGES), teachers.network(seed=1)(teachers.IMAGES))
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == case.licence
    assert ("as the original evaluates them" in card.text) == bool(repository)
    assert ("Others who train with the same code" in card.text) == bool(repository)
    licence = (folder / "LICENSE").read_text()
    for text in (card.text, licence):
        assert TERMS[case.layout] in text and all(link in text for link in links)
    assert ("Permission is hereby granted" in licence) == (case.licence == "mit")


def leaves(value):
    if isinstance(value, dict):
        for inside in value.values():
            yield from leaves(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from leaves(inside)
    else:
        yield value
