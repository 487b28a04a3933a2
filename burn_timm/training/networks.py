"""Builds what a run trains: the student of a stage, the frozen teacher, the method around them."""

import argparse

import timm
import torch
from timm.data import resolve_model_data_config

from ..checkpoints import load_model, state_hash
from ..data.loader import seed_for
from ..errors import BurnError
from ..methods import METHODS
from ..methods.base import Method
from ..nn import Backbone
from .moco_teacher import load_moco_teacher
from .options import STAGES


def build_student(args: argparse.Namespace, stage: str, seed: int) -> torch.nn.Module:
    """The network of one stage without classifier, its initial weights a function of `seed` alone."""
    kwargs = {"num_classes": 0, "drop_rate": args.drop, **args.model_kwargs}
    if STAGES[stage] is not None:
        weight_bits, act_bits = STAGES[stage]
        kwargs.update(weight_bits=weight_bits, act_bits=act_bits, act_grad=args.act_grad)
    torch.manual_seed(seed)
    if args.initial_checkpoint or args.model.startswith(("local-dir:", "hf-hub:")):
        model = load_model(args.model, args.initial_checkpoint or None, **kwargs).train()
    else:
        try:
            model = timm.create_model(args.model, **kwargs)
        except (RuntimeError, TypeError, ValueError) as error:
            raise BurnError(f"--model {args.model}: {_first_line(error)}") from error
    _set_input_size(model, args.img_size, "--img-size")
    return model


def build_teacher(args: argparse.Namespace) -> tuple[Backbone | None, dict | None]:
    """The frozen teacher behind its own normalisation and input size, and its identity for the checkpoint.

    Raises:
        BurnError: Its weights cannot be had; random ones are taken only with --no-teacher-pretrained.
    """
    if not args.teacher:
        return None, None
    torch.manual_seed(seed_for(args.seed, 0x7EAC))
    pretrained = args.teacher_pretrained and not args.teacher_checkpoint
    kwargs = dict(args.teacher_kwargs)
    if args.teacher_output == "features":
        kwargs["num_classes"] = 0
    try:
        model = None
        if args.teacher_checkpoint:
            model = load_moco_teacher(args.teacher, args.teacher_checkpoint, args.teacher_output, **kwargs)
        if model is None:
            model = load_model(args.teacher, args.teacher_checkpoint or None, pretrained=pretrained, **kwargs)
    except BurnError as error:
        hint = "; give --teacher-checkpoint FILE, or --no-teacher-pretrained for a random teacher" if pretrained else ""
        raise BurnError(f"--teacher {args.teacher}: {error}{hint}") from error
    config = resolve_model_data_config(model)
    size = (args.teacher_img_size,) * 2 if args.teacher_img_size else config["input_size"][-2:]
    sha256 = state_hash(model)  # of the weights as they were loaded, whatever the input size
    if args.teacher_img_size:
        _set_input_size(model, args.teacher_img_size, "--teacher-img-size")
    identity = {"name": args.teacher, "sha256": sha256, "size": list(size), "output": args.teacher_output}
    return Backbone(model, config["mean"], config["std"], tuple(size)), identity


def _set_input_size(model: torch.nn.Module, side: int, option: str) -> None:
    """Change a network that takes one size of images only (ViT) to `side` pixels; others take them as they come."""
    if hasattr(model, "set_input_size"):
        try:
            model.set_input_size(img_size=side)
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:
            raise BurnError(f"{option} {side}: the network cannot be changed to it ({_first_line(error)})") from error


def view_size(args: argparse.Namespace, teacher: Backbone | None) -> int:
    """Side of the views: the larger of the student's and the teacher's, so that neither sees an enlarged image; the
    student's where the teacher's outputs are cached."""
    if args.cache_teacher:
        return args.img_size
    return max(args.img_size, *(teacher.size if teacher is not None else ()), args.img_size)


def build_method(
    args: argparse.Namespace, stage: str, stage_index: int, teacher: Backbone | None, num_classes: int | None,
    epochs: float,
) -> Method:
    """The method of one stage with fresh weights, a function of (seed, stage_index) alone.

    Args:
        num_classes: Of the training images, None where they have no labels.
        epochs: Length of the stage, which schedules that are given in epochs need.
    """
    model = build_student(args, stage, seed_for(args.seed, stage_index))
    config = resolve_model_data_config(model)
    backbone = backbone_at(model, config, args.img_size)
    if args.export_img_size != args.img_size:  # a network of one size fails now, not after the training
        feature_dim(backbone_at(model, config, args.export_img_size), args.export_img_size, "--export-img-size")
    values = {
        **vars(args), "student_dim": feature_dim(backbone, args.img_size, "--model"), "teacher": teacher,
        "num_classes": num_classes, "epochs": epochs,
    }
    if teacher is not None:
        values["teacher_dim"] = feature_dim(teacher, args.img_size, "--teacher")
    options = METHODS[args.method].options
    return METHODS[args.method](backbone, **{name: values[name] for name in options if values[name] is not None})


def backbone_at(model: torch.nn.Module, config: dict, side: int) -> Backbone:
    """The network behind timm's normalisation in `config` and a resize to `side` pixels."""
    return Backbone(model, config["mean"], config["std"], (side, side))


@torch.no_grad()
def feature_dim(backbone: Backbone, img_size: int, option: str) -> int:
    """Length of the pooled features, by asking the network: timm's attributes differ where a head has hidden layers."""
    training = backbone.training
    device = backbone.mean.device
    try:
        features = backbone.eval()(torch.zeros(1, 3, img_size, img_size, dtype=torch.uint8, device=device))
    except (RuntimeError, AssertionError) as error:
        raise BurnError(f"{option}: the network refuses images of {img_size} px ({_first_line(error)})") from error
    finally:
        backbone.train(training)
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        got = f"shape {tuple(features.shape)}" if isinstance(features, torch.Tensor) else f"a {type(features).__name__}"
        raise BurnError(f"{option}: expected pooled features [B, D], got {got}; look at {option}-kwargs")
    return features.shape[1]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
