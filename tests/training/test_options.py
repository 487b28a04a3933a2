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

from .runs import words_of

TINY = "--model test_reactnet --teacher test_resnet"
SIMCLR = "--method simclr --model resnet18"


def parsed(*words):
    return parse_options(words_of(*words))


def refusal(capsys, *words) -> str:
    """The one line that options end in: the parser's, or the error of options that do not go together."""
    with pytest.raises((SystemExit, BurnError)) as error:
        parsed(*words)
    text = capsys.readouterr().err or f"{error.value}\n"
    assert text.count("\n") == 1
    return text


@pytest.mark.parametrize("words, message", [
    ("--model test_reactnet", "needs --teacher"),
    (f"{TINY} --stages fp", "real-valued stage is w32a32"),
    ("--model resnet18 --teacher resnet50 --stages w1a1", "not a binary network"),
    (f"{TINY} --stages w1a1 w32a1", "give them in the order w32a1 w1a1"),
    (f"{SIMCLR} --teacher resnet50", "--method simclr has no teacher, as burn, s2bnn, supervised_kl have; leave --tea"),
    (f"{SIMCLR} --teacher-output logits --teacher-img-size 9", "leave --teacher-img-size, --teacher-output out"),
    (f"{SIMCLR} --model-kwargs num_classes=10", "--model-kwargs num_classes: leave it out"),
    (f"{SIMCLR} --model-kwargs act_bits=32", "--model-kwargs act_bits: leave it out; --stages says it"),
    (f"{SIMCLR} --model-kwargs pretrained=True", "--initial-checkpoint names weights to start from"),
    ("--method simclr --model reactnet_a_burn.distill_tiny_imagenet_80_64", "training starts from random ones: give "),
    ("--method supervised_kl --teacher resnet18 --teacher-output features", "--teacher-output must be logits"),
    (f"{TINY} --lambda-schedule step --lambda-T 0.3", "--lambda-T has no effect with --lambda-schedule constant or st"),
    (f"{TINY} --lambda-schedule constant --lambda-T 0", "--lambda-T has no effect"),
    (f"{TINY} --sched constant --min-lr 1e-5", "--min-lr has no effect with --sched constant"),
    (f"{TINY} --lambda-0 1 --lambda-T 1 --kl-direction target-student", "the KL has no weight"),
    (f"{TINY} --lambda-0 1 --lambda-schedule constant --temperature 0.3", "--temperature has no effect with a lambda"),
    (f"{TINY} --lambda-0 0 --lambda-T 0 --adapter mlp", "--adapter has no effect with a lambda of 0 throughout"),
    (f"{TINY} --recipe distill --temperature 0.3", "KL has no weight (--recipe distill may say that); leave"),
    (f"{SIMCLR} --momentum 0.5", "--momentum has no effect with an --opt that has none"),
    (f"{TINY} --fs-temperature 0.3", "--fs-temperature has no effect with an --fs-loss other than assignment and rel"),
    (f"{TINY} --cache-teacher 1 --hflip 0.5", "--hflip has no effect with --view none"),
    (f"{TINY} --sync-bn-of heads", "--sync-bn-of has no effect"),
    (f"{TINY} --stages w1a1 --reset-target-head", "--reset-target-head has no effect with a single stage"),
    ("--method s2bnn --teacher resnet18 --contrastive-weight 0 --queue-size 9", "--queue-size has no effect"),
    ("--method swav --small-views 0 --small-img-size 9", "--small-img-size has no effect with --small-views 0"),
    ("--method simclr --model resnet18 --count-bits", "--count-bits has no effect with a floating-point network"),
    (f"{SIMCLR} --clip-grad 0", "--clip-grad: expected a number above 0, not 0"),
    (f"{SIMCLR} --lambda-0 0.5 --queue-size 9", "--method simclr takes no --lambda-0, --queue-size"),
    (f"{SIMCLR} --small-img-size 9", "--method simclr takes no --small-img-size"),
    (f"{SIMCLR} --recipe distill_small", "--method simclr takes no --adapter, --fs-loss"),
    (f"{TINY} --resume auto", "--resume auto needs --output"),
    (f"{TINY} --adapter mlp --fs-on projection", "--adapter is for --fs-on feature"),
    (f"{TINY} --target-head information", "--target-head information needs --information-weight above 0"),
    (f"{TINY} --target-head frozen --information-weight 1", "--information-weight is for a target head that learns"),
    (f"{TINY} --recipe nonsense", "no such recipe; shipped are burn_imagenet, "),
    (f"{TINY} --recipe distil_small", "no such recipe; is it distill_small"),
    (f"{TINY} --weight-decay 0 0 0", "--weight-decay takes one value, or one for each of the 2 stages"),
    (f"{TINY} --cache-size 256", "--cache-size needs --cache memory or --cache disk"),
    (f"{TINY} --cache disk --cache-size 200", "--cache-size 200 is less than --img-size 224"),
    (f"{TINY} --cache-teacher 1 --teacher-norm batch", "the teacher must see each batch"),
    (f"{TINY} --cache-teacher 1 --view moco", "leave --view out"),
    ("--recipe tiny_mini_imagenet_distill --cache-teacher 4", "--cache-teacher 4 needs a random --view"),
    ("--recipe tiny_mini_imagenet_distill --view light", "leave --view out"),
    (f"{TINY} --min-lr 1", "--min-lr 1 is above --lr 0.0003"),
    (f"{TINY} --opt lookahead_adamm", "--opt lookahead_adamm: "),
    (f"{TINY} --opt adahessian", "--opt adahessian: needs second derivatives"),
])
def test_bad_options_are_one_line(words, message, capsys):
    assert message in refusal(capsys, words)


@pytest.mark.parametrize("text, message", [
    ("learning_rate: 1", "unknown option 'learning_rate'"), ("stages: [w2a2]", "invalid choice: 'w2a2'"),
    ("epochs: 5.5", "expected a whole number"), ("lr: [1, 2]", "takes one value"), ("sync_bn: 3", "true or false"),
    ("- a\n- b", "mapping"), ("a: [", "not valid YAML"), ("model: caf\xe9", "not valid YAML"),
    ("model_kwargs: 3", "mapping"), ("resume: auto", "resume belongs on the command line"),
    ("base: bad.yaml", "its base bad.yaml leads back to it"),
])
def test_a_bad_recipe_is_one_line_that_names_the_file(tmp_path, text, message, capsys, monkeypatch):
    (tmp_path / "bad.yaml").write_bytes(text.encode("latin1"))
    monkeypatch.chdir(tmp_path)
    told = refusal(capsys, TINY, "--recipe bad.yaml")
    assert "bad.yaml: " in told and message in told


def test_a_recipe_sets_defaults_and_the_command_line_wins(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("lr: 1e-2\nbatch-size: 64\nstages: w1a1\nmodel_kwargs: {act_norm: true, dims: [1, 2], s: x}\n"
                      "channels_last: false\nteacher_pretrained: false\ngrad_checkpointing: true\nviews: cross\n")
    options = parsed(TINY, "--recipe", recipe, "--batch-size 32")
    assert options.lr == pytest.approx(1e-2) and options.batch_size == 32 and options.stages == ["w1a1"]
    assert options.model_kwargs == {"act_norm": True, "dims": [1, 2], "s": "x"} and options.views == "cross"
    (tmp_path / "other.yaml").write_text(f"base: {recipe}\nlr: 3\n")
    options = parsed(TINY, "--recipe", tmp_path / "other.yaml")
    assert options.lr == 3 and options.batch_size == 64
    assert (options.channels_last, options.teacher_pretrained, options.grad_checkpointing) == (False, False, True)


def test_an_image_size_of_ones_own_leaves_the_other_two_sizes_of_a_recipe_behind():
    swav = parsed("--recipe swav_small --img-size 64")
    assert (swav.small_img_size, swav.export_img_size) == (None, 64)
    sizes = {"": 64, "--img-size 32": 32, "--img-size=32 --export-img-size 40": 40}
    for words, size in sizes.items():
        assert parsed("--recipe tiny_imagenet_80_distill --teacher resnet18", words).export_img_size == size


def test_defaults_that_follow_from_other_options(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    for use_cpu, batch_size in (("false", 256), ("true", 32)):
        monkeypatch.setenv("ACCELERATE_USE_CPU", use_cpu)
        assert parsed("--data-dir photos --teacher resnet50").batch_size == batch_size
    assert parsed(TINY).stages == ["w32a1", "w1a1"] and parsed(SIMCLR).stages == ["fp"]
    assert is_binary("reactnet_a_burn") and is_binary("reactnet_18") and not is_binary("resnet18")
    for words, dataset in {"": "digits", "--data-dir photos": "", "--data-dir x --dataset wds/x": "wds/x"}.items():
        assert parsed(TINY, words).dataset == dataset
    for name, flip in {"digits": 0, "Digits": 0, "digits/": 0, "torch/cifar10": 0.5}.items():
        assert parsed(TINY, "--dataset", name).hflip == flip
    assert parsed(TINY, "--hflip 0.3").hflip == 0.3


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_options_are_its_constructors(method):
    """Its defaults are among the settings, those of other methods are not; its own words are the papers'."""
    teacher = "--teacher test_resnet" if METHODS[method].teacher_output else ""
    options = parsed(f"--model test_reactnet --method {method} {teacher}")
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
    assert papers.items() <= vars(parsed(TINY)).items()
    assert set(STAGES) == {*packing.STAGES, "fp"}


def test_a_given_length_replaces_the_recipes():
    """Else 200 epochs would silently end after the 1,000 steps of a recipe for short comparisons."""
    recipe = f"{TINY} --recipe distill_small"
    assert (parsed(recipe).epochs, parsed(recipe).max_steps) == (3, 1000)
    assert (parsed(f"{recipe} --epochs 50").epochs, parsed(f"{recipe} --epochs 50").max_steps) == (50, None)
    assert (parsed(f"{recipe} --max-steps 5").epochs, parsed(f"{recipe} --max-steps 5").max_steps) == (200, 5)


def test_what_changes_the_views_is_among_the_settings_and_where_images_are_kept_is_not():
    settings = defining_options(parsed(TINY, "--cache disk --cache-size 256 --cache-dir x"))
    assert settings["cache_size"] == 256 and settings["views_on"] == "workers"
    assert not {"cache", "cache_dir"} & settings.keys()


def test_help_opens_with_examples_and_every_option_has_its_default():
    parser = build_parser()
    examples = [line for line in parser.format_help().splitlines()[:8] if line.startswith("  accelerate launch")]
    assert len(examples) == 3
    assert examples[0].split()[2:] == ["train_burn.py"]  # the demonstration
    for line in examples[1:]:
        parse_options(line.rstrip("\\").split()[3:])
    help_of = parser.formatter_class("")._get_help_string
    for action in option_actions(parser).values():
        assert action.help and "default" in help_of(action).lower() and "None" not in help_of(action), action.dest


@pytest.mark.parametrize("scheme", ["local-dir", "local_dir"])
def test_a_student_from_a_folder_has_its_weights(tmp_path, scheme):
    model = timm.create_model("test_reactnet", num_classes=0)
    folder = write_export(tmp_path / "export", model, weight_bits=1, act_bits=1)
    student = build_student(parsed(f"--model {scheme}:{folder} --teacher test_resnet --img-size 32"), "w1a1", seed=1)
    image = torch.ones(1, 3, 32, 32)
    assert torch.equal(student.eval()(image), load_model(f"local-dir:{folder}")(image))
