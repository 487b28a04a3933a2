"""The settings of a run: a recipe for defaults, the command line on top, checked, and never changed afterwards."""

import argparse
import dataclasses
import importlib.resources
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from timm.optim import create_optimizer_v2, get_optimizer_info

from ..arguments import KeyValues
from ..checkpoints import architecture_of, require_model
from ..compat import use_cpu_is_set
from ..data.datasets import mirror_probability
from ..errors import BurnError, like, one_line
from ..identify import burn_models
from ..methods import METHODS
from ..schedules import lambda_at
from .parser import STAGES, build_parser, option_actions
from .processes import launched_options

# Options that may differ between a run and its resumption: none of them changes what is computed.
FREE_ON_RESUME = {
    "output", "resume", "workers", "threads", "checkpoint_steps", "log_interval", "log_with", "push_to_hub", "recipe",
    "data_dir", "val_split", "teacher", "teacher_checkpoint", "teacher_pretrained", "command", "cache",
    "cache_dir", "dataset_download", "knn_steps", "linear_steps", "export_img_size",
}
_OF_METHODS = {name for method in METHODS.values() for name in method.options()} | {"reset_target_head"}
_NOT_GIVEN = object()
# Arguments of models that --model-kwargs may not have, and why.
_NO_KWARGS = {
    "num_classes": "what is trained are the features, not a classifier",
    "weight_bits": "--stages says it", "act_bits": "--stages says it", "act_grad": "--act-grad says it",
    "drop_rate": "--drop says it", "pretrained": "--initial-checkpoint names weights to start from",
    "checkpoint_path": "--initial-checkpoint names weights to start from",
}


def _lambdas(options: "Options") -> set[float]:
    """The weights of BURN's L_FS at the beginning and at the end of a stage, between which all others lie."""
    return {lambda_at(t, options.lambda_0, options.lambda_T, options.lambda_schedule) for t in (0.0, 1.0)}


_NO_KL = "a lambda of 1 throughout: the KL has no weight"
_NO_FS = "a lambda of 0 throughout: the feature similarity has no weight"
# Options that are ignored in some settings: when, in words and as a test. Who gives one relies on it.
_IGNORED: dict[str, tuple[str, Callable[["Options"], bool]]] = {
    "lambda_0": ("--lambda-schedule step", lambda o: o.lambda_schedule == "step"),
    "lambda_T": ("--lambda-schedule constant or step", lambda o: o.lambda_schedule in ("constant", "step")
                 and not o.lambda_T == o.lambda_0),
    "fs_temperature": ("an --fs-loss other than assignment and relations",
                       lambda o: o.fs_loss not in ("assignment", "relations")),
    "hflip": ("--view none, which shows photos as they are", lambda o: o.view == "none" and o.hflip > 0),
    "min_lr": ("--sched constant", lambda o: o.sched == "constant"),
    "momentum": ("an --opt that has none",
                 lambda o: not get_optimizer_info(o.opt.removeprefix("lookahead_")).has_momentum),
    "kl_direction": (_NO_KL, lambda o: _lambdas(o) == {1}),
    "temperature": (_NO_KL, lambda o: o.method == "burn" and _lambdas(o) == {1} and not o.information_weight),
    **{name: (_NO_FS, lambda o: _lambdas(o) == {0}) for name in ("fs_loss", "fs_on", "adapter")},
    "sync_bn_of": ("--no-sync-bn, the default", lambda o: not o.sync_bn),
    "reset_target_head": ("a single stage", lambda o: len(o.stages) == 1),
    "queue_size": ("--contrastive-weight 0", lambda o: o.contrastive_weight == 0),
    "target_momentum": ("--contrastive-weight 0", lambda o: o.contrastive_weight == 0),
    "small_img_size": ("--small-views 0", lambda o: o.small_views == 0),
    **{name: ("a floating-point network", lambda o: o.stages == ["fp"])
       for name in ("act_grad", "weight_grad", "count_bits")},
}


class Options(dataclasses.make_dataclass("_Fields", [*option_actions(build_parser()), "command"], frozen=True)):
    """One field for each option of the parser, and `command`, the command line.

    What an option leaves open until data, device and teacher are known is None in what `parse_options` returns;
    `dataclasses.replace` gives the settings in force. Options of other methods than the run's are None, too.
    """


def parse_options(argv: Sequence[str]) -> Options:
    """Settings from recipe and command line, checked.

    Raises:
        BurnError: They do not fit together. What a single option does not take ends the process with code 2.
    """
    parser = build_parser()
    actions = option_actions(parser)
    given = _given(parser, argv)
    recipe = _read_recipe(given["recipe"], actions) if given.get("recipe") else {}
    recipe = _without(recipe, given)
    launched = _given(build_parser("accelerate launch"), launched_options())
    values = {name: action.default for name, action in actions.items()} | recipe | launched | given
    beside = given if "cache_teacher" in given else {**recipe, **given}  # a recipe's view gives way to the command's
    if values["cache_teacher"] == 1 and beside.get("view", "none") != "none":
        raise BurnError("--cache-teacher 1 is --view none: leave --view out, or let the teacher see several views")
    _check_method(values["method"], {**recipe, **given})
    options = Options(**_filled_in(values), command=shlex.join(["train_burn.py", *argv]))
    _check(options)
    for name in given.keys() & _IGNORED.keys():
        when, ignored = _IGNORED[name]
        if given[name] is not False and ignored(options):
            where = f"{when} (--recipe {options.recipe} may say that)" if recipe else when
            raise BurnError(f"{_flags([name])} has no effect with {where}; leave one of them out")
    return options


def is_binary(model_name: str) -> bool:
    """Whether a timm name, hf-hub: or local-dir: is one of this package's networks."""
    return architecture_of(model_name) in burn_models()


def defining_options(options: Options) -> dict[str, Any]:
    """The options that determine what is computed; a resumed run must have the same. Those of other methods are out."""
    own = METHODS[options.method].options()
    return {
        name: value for name, value in sorted(vars(options).items())
        if name not in FREE_ON_RESUME and not (name in _OF_METHODS and value is None and name not in own)
    }


def _given(parser: argparse.ArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    """What the words give, without defaults."""
    namespace = argparse.Namespace(**dict.fromkeys(option_actions(parser), _NOT_GIVEN))
    values = vars(parser.parse_args(argv, namespace))
    return {name: value for name, value in values.items() if value is not _NOT_GIVEN}


def _filled_in(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with the defaults that follow from other options."""
    method = METHODS[values["method"]]
    dataset = values["dataset"]
    if dataset is None:
        dataset = "" if values["data_dir"] else "digits"
    derived = {
        "dataset": dataset,
        "stages": ["w32a1", "w1a1"] if is_binary(values["model"]) else ["fp"],
        "hflip": mirror_probability(dataset),
        "export_img_size": values["img_size"],
        "batch_size": 256 if torch.accelerator.is_available() and not use_cpu_is_set() else 32,  # 224 px take 30 GB
        "view": method.default_view,
        "teacher_output": method.teacher_output,
        **method.options(),
    }
    whole = {"view": "none"} if values["cache_teacher"] == 1 else {}
    return values | {name: value for name, value in derived.items() if values[name] is None} | whole


def _read_recipe(recipe: str, actions: Mapping[str, argparse.Action], above: tuple[str, ...] = ()) -> dict[str, Any]:
    """The options of a recipe, under the same rules as on the command line, and of the recipe that is its `base`.

    above: The recipes that lead to this one.
    """
    shipped = importlib.resources.files("burn_timm") / "recipes"
    path = Path(recipe) if Path(recipe).suffix else Path(str(shipped / f"{recipe}.yaml"))
    if not path.is_file():
        names = sorted(entry.name[:-5] for entry in shipped.iterdir() if entry.name.endswith(".yaml"))
        near = like(recipe, names) or f"; shipped are {', '.join(names)}, or give a .yaml file"
        raise BurnError(f"--recipe {recipe}: no such recipe{near}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BurnError(f"{path.name}: not valid YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(values, dict):
        raise BurnError(f"{path.name}: expected a YAML mapping of option: value")
    base = values.pop("base", None)
    if base in (recipe, *above):
        raise BurnError(f"{path.name}: its base {base} leads back to it")
    inherited = _read_recipe(str(base), actions, (recipe, *above)) if base else {}
    words = [word for key, value in values.items() for word in _words(path.name, str(key), value, actions)]
    own = _given(build_parser(f"train_burn.py: {path.name}"), words)
    return _without(inherited, own) | own


def _without(recipe: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`recipe` without what goes with a setting that is given anew: with the size two other sizes, and of the two ways
    to give a length, of which the shorter holds, the one that is not given."""
    gone = {name for name in ("export_img_size", "small_img_size") if "img_size" in given}
    gone |= {name for name in ("epochs", "max_steps") if given.keys() & {"epochs", "max_steps"}}
    return {name: value for name, value in recipe.items() if name not in gone}


def _words(file: str, key: str, value: Any, actions: Mapping[str, argparse.Action]) -> list[str]:
    """One entry of a recipe as words of the command line."""
    name = key.replace("-", "_")
    if name in ("recipe", "resume"):
        raise BurnError(f"{file}: {key} belongs on the command line; leave it out of the recipe")
    action = actions.get(name)
    if action is None:
        raise BurnError(f"{file}: unknown option {key!r}")
    flag = action.option_strings[0]
    if isinstance(action, KeyValues):
        if not isinstance(value, dict):
            raise BurnError(f"{file}: {key} must be a mapping, not {value!r}")
        return [flag, *(f"{name}={entry!r}" for name, entry in value.items())]
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise BurnError(f"{file}: {key} must be true or false, not {value!r}")
        return [flag] if value else action.option_strings[1:]  # --no-..., where there is one
    if isinstance(value, list) and action.nargs != "+":
        raise BurnError(f"{file}: {key} takes one value, not a list")
    return [flag, *map(str, value)] if isinstance(value, list) else [flag, str(value)]


def _flags(names: Sequence[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in sorted(names))


def _check_method(name: str, given: Mapping[str, Any]) -> None:
    """Options that are given must be options of the method."""
    own = set(METHODS[name].options())
    own |= {"small_img_size"} if "small_views" in own else set()
    own |= {"reset_target_head"} if name == "burn" else set()
    if ignored := set(given) & (_OF_METHODS | {"small_img_size"}) - own:
        raise BurnError(f"--method {name} takes no {_flags(ignored)}; leave that out of the command and the recipe")
    if not METHODS[name].teacher_output and (told := [word for word in given if word.startswith("teacher")]):
        taught = ", ".join(other for other, method in METHODS.items() if method.teacher_output)
        raise BurnError(f"--method {name} has no teacher, as {taught} have; leave {_flags(told)} out")


def _check(options: Options) -> None:
    """Raise BurnError where options do not go together."""
    require_model(options.model)
    _check_stages(options)
    if METHODS[options.method].teacher_output and not options.teacher:
        raise BurnError(
            f"--method {options.method} needs --teacher: any timm model name, hf-hub:... or local-dir:... of a backbone"
        )
    if METHODS[options.method].teacher_output == "logits" != options.teacher_output:
        raise BurnError(f"--method {options.method} learns the teacher's classes: --teacher-output must be logits")
    if told := [f"{name}: leave it out; {_NO_KWARGS[name]}" for name in options.model_kwargs if name in _NO_KWARGS]:
        raise BurnError(f"--model-kwargs {told[0]}")
    if "." in options.model and ":" not in options.model and timm.is_model_pretrained(options.model):
        name = options.model.partition(".")[0]
        raise BurnError(f"--model {options.model}: names weights, but training starts from random ones: give {name}, "
                        "and --initial-checkpoint FILE to start from weights")
    if options.cache_size and options.cache not in ("memory", "disk"):
        raise BurnError("--cache-size needs --cache memory or --cache disk")
    if options.cache_size and options.cache_size < options.img_size:
        raise BurnError(f"--cache-size {options.cache_size} is less than --img-size {options.img_size}")
    if options.cache_teacher and not options.teacher:
        raise BurnError(f"--cache-teacher: --method {options.method} has no teacher")
    if options.cache_teacher > 1 and options.view == "none":
        raise BurnError(f"--cache-teacher {options.cache_teacher} needs a random --view: those of none are all equal")
    if options.cache_teacher and options.views_on == "device":
        raise BurnError("--cache-teacher needs --views-on workers")
    if options.cache_teacher and (options.teacher_norm == "batch" or options.lighting):
        raise BurnError("--cache-teacher: the teacher must see each batch for --teacher-norm batch and --lighting")
    if options.min_lr > options.lr:
        raise BurnError(f"--min-lr {options.min_lr:g} is above --lr {options.lr:g}")
    if options.target_head == "information" and not options.information_weight:
        raise BurnError("--target-head information needs --information-weight above 0: nothing else trains g_theta")
    if options.target_head == "frozen" and options.information_weight:
        raise BurnError("--information-weight is for a target head that learns: not for --target-head frozen")
    if options.fs_on == "projection" and options.adapter != "linear":
        raise BurnError("--adapter is for --fs-on feature: the heads' logits have one size")
    if options.resume == "auto" and not options.output:
        raise BurnError("--resume auto needs --output: the folder of the run to go on with")
    try:
        weight = torch.nn.Parameter(torch.zeros(1))
        made = create_optimizer_v2([weight], options.opt, options.lr, weight_decay=0.0, momentum=options.momentum)
        if getattr(made, "is_second_order", False):
            raise ValueError("needs second derivatives, which binary networks have not")
    except (ValueError, TypeError, AssertionError, ImportError) as error:
        expected = "expected an optimiser of timm.optim.list_optimizers()"
        raise BurnError(f"--opt {options.opt}: {one_line(error)}; {expected}") from error


def _check_stages(options: Options) -> None:
    stages, model = options.stages, options.model
    if is_binary(model) and "fp" in stages:
        raise BurnError(f"--stages fp is for floating-point models; for {model} the real-valued stage is w32a32")
    if not is_binary(model) and stages != ["fp"]:
        raise BurnError(f"--stages {' '.join(stages)}: {model} is not a binary network, use --stages fp")
    if stages != sorted(stages, key=STAGES.index):
        raise BurnError(f"--stages {' '.join(stages)}: bits become fewer from stage to stage; give them in the order "
                        f"{' '.join(sorted(stages, key=STAGES.index))}")
    if len(options.weight_decay) not in (1, len(stages)):
        raise BurnError(f"--weight-decay takes one value, or one for each of the {len(stages)} stages")
