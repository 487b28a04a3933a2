"""Builds what a run trains: the student of a stage, the frozen teacher, the method around them."""

import copy
import inspect
from dataclasses import replace

import timm
import torch
from accelerate import Accelerator
from timm.data import resolve_model_data_config

from ..checkpoints import load_model, model_source, state_hash
from ..convert.moco import load_moco_teacher
from ..data.loader import seed_for
from ..errors import BurnError, one_line
from ..methods import METHODS
from ..methods.base import Method
from ..nn import Backbone, BinaryConv2d
from ..packing import STAGES
from . import speed
from .data import Steps
from .options import Options


def build_student(options: Options, stage: str, seed: int) -> torch.nn.Module:
    """The network of one stage without classifier, its initial weights a function of `seed` alone."""
    kwargs = {"num_classes": 0, "drop_rate": options.drop, **options.model_kwargs}
    if stage in STAGES:
        weight_bits, act_bits = STAGES[stage]
        kwargs.update(weight_bits=weight_bits, act_bits=act_bits, act_grad=options.act_grad)
    torch.manual_seed(seed)
    if options.initial_checkpoint or model_source(options.model)[0]:
        model = load_model(options.model, options.initial_checkpoint or None, **kwargs).train()
    else:
        try:
            model = timm.create_model(options.model, **kwargs)
        except (RuntimeError, TypeError, ValueError) as error:
            raise BurnError(f"--model {options.model}: {one_line(error)}") from error
    for module in model.modules():
        if isinstance(module, BinaryConv2d):
            module.weight_grad = options.weight_grad
    _set_input_size(model, options.img_size, "--img-size")
    return model


def build_teacher(options: Options) -> tuple[Backbone | None, dict | None]:
    """The frozen teacher behind its own normalisation and input size, and its identity for the checkpoint.

    Raises:
        BurnError: Its weights cannot be had; random ones are taken only with --no-teacher-pretrained.
    """
    if not options.teacher:
        return None, None
    torch.manual_seed(seed_for(options.seed, 0x7EAC))
    pretrained = options.teacher_pretrained and not options.teacher_checkpoint
    kwargs = dict(options.teacher_kwargs)
    trained = pretrained or options.teacher_checkpoint or model_source(options.teacher)[0]
    if options.teacher_output == "features":
        kwargs["num_classes"] = 0
    elif trained and "num_classes" in kwargs:
        raise BurnError("--teacher-kwargs num_classes: leave it out; the teacher's classifier comes with its weights")
    try:
        model = None
        if options.teacher_checkpoint:
            model = load_moco_teacher(options.teacher, options.teacher_checkpoint, options.teacher_output, **kwargs)
        if model is None:
            model = load_model(options.teacher, options.teacher_checkpoint or None, pretrained=pretrained, **kwargs)
            if options.teacher_output == "logits" and not getattr(model, "num_classes", 0):
                raise BurnError("has no classifier, so no logits; give --teacher-output features, or another teacher")
    except BurnError as error:
        hint = "; give --teacher-checkpoint FILE, or --no-teacher-pretrained for a random teacher" if pretrained else ""
        raise BurnError(f"--teacher {options.teacher}: {error}{hint}") from error
    config = resolve_model_data_config(model)
    size = (options.teacher_img_size,) * 2 if options.teacher_img_size else config["input_size"][-2:]
    sha256 = state_hash(model)  # of the weights as they were loaded, whatever the input size
    if options.teacher_img_size:
        _set_input_size(model, options.teacher_img_size, "--teacher-img-size")
    identity = {"name": options.teacher, "sha256": sha256, "size": list(size), "output": options.teacher_output}
    return Backbone(model, config["mean"], config["std"], tuple(size)), identity


def _set_input_size(model: torch.nn.Module, side: int, option: str) -> None:
    """Change a network that takes one size of images only (ViT) to `side` pixels; others take them as they come."""
    if hasattr(model, "set_input_size"):
        try:
            model.set_input_size(img_size=side)
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:
            raise BurnError(f"{option} {side}: the network cannot be changed to it ({one_line(error)})") from error


def view_size(options: Options, teacher: Backbone | None) -> int:
    """Side of the views: the largest that a network takes, so that none sees an enlarged image. (A teacher whose
    outputs are cached sees none.)"""
    return max([options.img_size, *(teacher.size if teacher and not options.cache_teacher else ())])


def options_in_force(options: Options, accelerator: Accelerator, teacher: Backbone | None, steps: Steps) -> Options:
    """The options with what follows from teacher and device; summary and checkpoint hold these."""
    small = options.small_img_size or max(1, round(view_size(options, teacher) * 3 / 7))
    square = teacher is not None and len(set(teacher.size)) == 1
    chosen = speed.choose(
        options, accelerator.device, accelerator.mixed_precision, steps.total, accelerator.is_main_process,
    )
    return replace(
        options, small_img_size=small, teacher_img_size=teacher.size[0] if square else options.teacher_img_size,
        **chosen,
    )


def build_method(
    options: Options, stage: str, stage_index: int, teacher: Backbone | None, num_classes: int | None,
    epochs: float,
) -> Method:
    """The method of one stage with fresh weights, a function of (seed, stage_index) alone.

    Args:
        num_classes: Of the training images, None where they have no labels.
        epochs: Length of the stage, which schedules that are given in epochs need.
    """
    model = build_student(options, stage, seed_for(options.seed, stage_index))
    config = resolve_model_data_config(model)
    backbone = backbone_at(model, config, options.img_size)
    if options.export_img_size != options.img_size:  # a network of one size fails now, not after the training
        feature_dim(backbone_at(model, config, options.export_img_size), options.export_img_size, "--export-img-size")
    supplied = {
        "backbone": backbone, "student_dim": feature_dim(backbone, options.img_size, "--model"), "teacher": teacher,
        "num_classes": num_classes, "epochs": epochs,
    }
    if teacher is not None:
        supplied["teacher_dim"] = feature_dim(teacher, options.img_size, "--teacher")
    method_class = METHODS[options.method]
    taken = inspect.signature(method_class).parameters
    own = {name: getattr(options, name) for name in method_class.options()}
    method = method_class(**own, **{name: value for name, value in supplied.items() if name in taken})
    if (classifier := method.classifier()) is not None:  # now, not at the export after the training
        with_classifier(model, classifier)
    return method


def with_classifier(model: torch.nn.Module, classifier: torch.nn.Linear) -> torch.nn.Module:
    """A copy of a network without classifier that ends in this one; BurnError where it has another kind."""
    model = copy.deepcopy(model)
    model.reset_classifier(classifier.out_features)
    own = model.get_classifier()
    if not isinstance(own, (torch.nn.Linear, torch.nn.Conv2d)) or own.weight.shape[:2] != classifier.weight.shape:
        raise BurnError(f"--model: a network whose classifier is not one linear layer ({type(own).__name__})")
    own.load_state_dict({
        name: tensor.view(own.get_parameter(name).shape) for name, tensor in classifier.state_dict().items()
    })
    return model


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
        raise BurnError(f"{option}: the network refuses images of {img_size} px ({one_line(error)})") from error
    finally:
        backbone.train(training)
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        got = f"shape {tuple(features.shape)}" if isinstance(features, torch.Tensor) else f"a {type(features).__name__}"
        raise BurnError(f"{option}: expected pooled features [B, D], got {got}; look at {option}-kwargs")
    return features.shape[1]
