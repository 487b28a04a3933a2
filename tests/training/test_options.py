"""Settings from command line and recipe: what they default to, what is refused, and that nothing changes them."""

import dataclasses

import pytest
import timm
import torch
from exported import write_export

from burn_timm import packing
from burn_timm.checkpoints import load_model
from burn_timm.errors import BurnError
from burn_timm.methods import METHODS
from burn_timm.training.build import build_student
from burn_timm.training.options import defining_options, is_binary, parse_options
from burn_timm.training.parser import STAGES, build_parser, option_actions

TINY = ["--model", "test_reactnet", "--teacher", "test_resnet"]
SIMCLR = ["--method", "simclr", "--model", "resnet18"]


def refusal(argv, capsys) -> str:
    """The one line that options end in: the parser's, or the error of options that do not go together."""
    with pytest.raises((SystemExit, BurnError)) as error:
        parse_options(argv)
    text = capsys.readouterr().err or f"{error.value}\n"
    assert text.count("\n") == 1
    return text


@pytest.mark.parametrize("argv, message", [
    (["--model", "test_reactnet"], "needs --teacher"),
    ([*TINY, "--stages", "fp"], "real-valued stage is w32a32"),
    (["--model", "resnet18", "--teacher", "resnet50", "--stages", "w1a1"], "not a binary network"),
    ([*TINY, "--stages", "w1a1", "w32a1"], "give them in the order w32a1 w1a1"),
    ([*SIMCLR, "--teacher", "resnet50"], "--teacher goes with --method burn, s2"),
    ([*SIMCLR, "--teacher-output", "logits"], "--method simclr has no teacher; leave --teacher-output out"),
    ([*SIMCLR, "--lambda-0", "0.5", "--queue-size", "9"], "--method simclr takes no --lambda-0, --queue-size"),
    ([*SIMCLR, "--small-img-size", "9"], "--method simclr takes no --small-img-size"),
    ([*SIMCLR, "--recipe", "distill_small"], "--method simclr takes no --adapter, --fs-loss"),
    ([*TINY, "--resume", "auto"], "--resume auto needs --output"),
    ([*TINY, "--adapter", "mlp", "--fs-on", "projection"], "--adapter is for --fs-on feature"),
    ([*TINY, "--target-head", "information"], "--target-head information needs --information-weight above 0"),
    ([*TINY, "--recipe", "nonsense"], "no such recipe; shipped are burn_imagenet, "),
    ([*TINY, "--weight-decay", "0", "0", "0"], "--weight-decay takes one value, or one for each of the 2 stages"),
    ([*TINY, "--cache-size", "256"], "--cache-size needs --cache memory or --cache disk"),
    ([*TINY, "--cache", "disk", "--cache-size", "200"], "--cache-size 200 is less than --img-size 224"),
    ([*TINY, "--opt", "adamm"], "expected an optimiser of timm.optim"),
    ([*TINY, "--opt", "lookahead_adamm"], "--opt lookahead_adamm"),
    (["--demo", "--epochs", "1", "--lr", "1e-3", "--channels-last"], "leave out --channels-last, --lr, or --demo"),
    (["--demo", "--recipe", "cifar10_burn"], "--demo takes --epochs, --max-steps and --output only; leave out"),
    ([*TINY, "--center-momentum", "0.9"], "--center-momentum: was removed, as it helped in no experiment"),
    ([*TINY, "--fs-center"], "commit 54ce517 still has it"),
    ([*TINY, "--target-head", "swapped"], "swapped was removed"),
    ([*TINY, "--fs-loss", "cosine+relations"], "cosine+relations was removed"),
])
def test_bad_options_are_one_line(argv, message, capsys):
    assert message in refusal(argv, capsys)


@pytest.mark.parametrize("text, message", [
    ("learning_rate: 1", "unknown option 'learning_rate'"), ("stages: [w2a2]", "invalid choice: 'w2a2'"),
    ("epochs: 5.5", "expected a whole number"), ("lr: [1, 2]", "takes one value"), ("sync_bn: 3", "true or false"),
    ("- a\n- b", "mapping"), ("a: [", "not valid YAML"), ("model_kwargs: 3", "mapping"),
    ("fs_center: true", "fs_center was removed"), ("center-momentum: 0.9", "center-momentum was removed"),
    ("demo: true", "demo belongs on the command line"), ("resume: auto", "resume belongs on the command line"),
    ("recipe: burn_small", "recipe belongs on the command line"), ("model: caf\xe9", "not valid YAML"),
    ("target_head: swapped", "swapped was removed"),
])
def test_a_bad_recipe_is_one_line_that_names_the_file(tmp_path, text, message, capsys):
    (tmp_path / "bad.yaml").write_bytes(text.encode("latin1"))
    told = refusal([*TINY, "--recipe", str(tmp_path / "bad.yaml")], capsys)
    assert "bad.yaml: " in told and message in told


def test_a_recipe_sets_defaults_and_the_command_line_wins(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("lr: 1e-2\nbatch-size: 64\nstages: w1a1\nmodel_kwargs: {act_norm: true, dims: [1, 2], s: x}\n"
                      "channels_last: false\nteacher_pretrained: false\ngrad_checkpointing: true\nviews: cross\n")
    options = parse_options([*TINY, "--recipe", str(recipe), "--batch-size", "32"])
    assert options.lr == pytest.approx(1e-2) and options.batch_size == 32 and options.stages == ["w1a1"]
    assert options.model_kwargs == {"act_norm": True, "dims": [1, 2], "s": "x"} and options.views == "cross"
    assert (options.channels_last, options.teacher_pretrained, options.grad_checkpointing) == (False, False, True)


def test_an_image_size_of_ones_own_leaves_the_other_two_sizes_of_a_recipe_behind():
    swav = parse_options(["--recipe", "swav_small", "--img-size", "64"])
    assert (swav.small_img_size, swav.export_img_size) == (None, 64)
    distill = ["--recipe", "tiny_imagenet_80_distill", "--teacher", "resnet18"]
    sizes = {(): 64, ("--img-size", "32"): 32, ("--img-size=32", "--export-img-size", "40"): 40}
    assert {words: parse_options([*distill, *words]).export_img_size for words in sizes} == sizes


def test_defaults_that_follow_from_other_options():
    assert parse_options(TINY).stages == ["w32a1", "w1a1"] and parse_options(SIMCLR).stages == ["fp"]
    assert is_binary("reactnet_a_burn") and is_binary("reactnet_18") and not is_binary("resnet18")
    datasets = {(): "digits", ("--data-dir", "photos"): "", ("--data-dir", "x", "--dataset", "wds/x"): "wds/x"}
    assert {words: parse_options([*TINY, *words]).dataset for words in datasets} == datasets
    flips = {"digits": 0, "Digits": 0, "digits/": 0, "torch/cifar10": 0.5}
    assert {name: parse_options([*TINY, "--dataset", name]).hflip for name in flips} == flips
    assert parse_options([*TINY, "--hflip", "0.3"]).hflip == 0.3


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_options_are_its_constructors(method):
    """Its defaults are among the settings, those of other methods are not; its own words are the papers'."""
    argv = ["--model", "test_reactnet", "--method", method, *(TINY[2:] if METHODS[method].teacher_output else [])]
    options = parse_options(argv)
    settings = defining_options(options)
    own = METHODS[method].options()
    assert {name: settings[name] for name in own} == own
    assert not {name for other in METHODS.values() for name in other.options()} - own.keys() & settings.keys()
    assert settings["view"] == METHODS[method].default_view
    assert settings["teacher_output"] == METHODS[method].teacher_output
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.lr = 1.0


def test_the_papers_choices_are_the_defaults():
    papers = {
        "method": "burn", "target_head": "joint", "fs_loss": "cosine", "fs_on": "feature", "lambda_schedule": "cosine",
        "views": "same", "kl_direction": "student-target", "information_weight": 0, "epochs": 200,
    }
    assert papers.items() <= vars(parse_options(TINY)).items()
    assert set(STAGES) == {*packing.STAGES, "fp"}


def test_what_changes_the_views_is_among_the_settings_and_where_images_are_kept_is_not():
    settings = defining_options(parse_options([*TINY, "--cache", "disk", "--cache-size", "256", "--cache-dir", "x"]))
    assert settings["cache_size"] == 256 and settings["views_on"] == "workers"
    assert not {"cache", "cache_dir"} & settings.keys()


def test_every_option_has_help_and_a_true_default():
    assert "(default: None)" not in build_parser().format_help()
    assert all(action.help for action in option_actions(build_parser()).values())


@pytest.mark.parametrize("scheme", ["local-dir", "local_dir"])
def test_a_student_from_a_folder_has_its_weights(tmp_path, scheme):
    model = timm.create_model("test_reactnet", num_classes=0)
    folder = write_export(tmp_path / "export", model, weight_bits=1, act_bits=1)
    options = parse_options(["--model", f"{scheme}:{folder}", "--teacher", "test_resnet", "--img-size", "32"])
    student = build_student(options, "w1a1", seed=1)
    image = torch.ones(1, 3, 32, 32)
    assert torch.equal(student.eval()(image), load_model(f"local-dir:{folder}")(image))
