import inspect

import pytest

from burn_timm.errors import BurnError
from burn_timm.methods import METHODS
from burn_timm.training.options import build_parser, defining_options, is_binary, parse_options

TINY = ["--model", "test_reactnet", "--teacher", "test_resnet"]


def test_stages_follow_the_model():
    assert parse_options(TINY).stages == ["w32a1", "w1a1"]
    assert parse_options(["--method", "simclr", "--model", "resnet18"]).stages == ["fp"]
    assert is_binary("reactnet_a_burn") and is_binary("reactnet_18") and not is_binary("resnet18")


def test_the_papers_choices_are_the_defaults():
    args = parse_options(TINY)
    assert args.method == "burn" and args.target_head == "joint" and args.fs_loss == "cosine"
    assert args.lambda_schedule == "cosine" and args.fs_on == "feature" and args.views == "same"
    assert args.kl_direction == "student-target" and args.information_weight == 0 and args.epochs == 200


@pytest.mark.parametrize("argv, message", [
    (["--model", "test_reactnet"], "needs --teacher"),
    ([*TINY, "--stages", "fp"], "real-valued stage is w32a32"),
    (["--model", "resnet18", "--teacher", "resnet50", "--stages", "w1a1"], "not a binary network"),
    (["--method", "simclr", "--model", "resnet18", "--teacher", "resnet50"], "--teacher goes with --method burn, s2"),
    ([*TINY, "--epochs", "0"], "--epochs must be at least 1"),
    ([*TINY, "--max-steps", "-3"], "--max-steps must be at least 1"),
    ([*TINY, "--lr", "nan"], "--lr must be at least 0"),
    ([*TINY, "--resume", "auto"], "--resume auto needs --output"),
    ([*TINY, "--lambda-0", "1.5"], r"--lambda-0 must lie in \[0, 1\]"),
    ([*TINY, "--temperature", "0"], "--temperature must be above 0"),
    ([*TINY, "--fs-loss", "dot"], "--fs-loss"),
    ([*TINY, "--adapter", "mlp", "--fs-on", "projection"], "--adapter is for --fs-on feature"),
    ([*TINY, "--nonsense"], "--nonsense"),
    ([*TINY, "--recipe", "nonsense"], "no such recipe; shipped are .*cifar10_burn"),
    ([*TINY, "--cache-size", "256"], "--cache-size needs --cache memory or --cache disk"),
    ([*TINY, "--cache", "disk", "--cache-size", "200"], "--cache-size 200 is less than --img-size 224"),
    ([*TINY, "--opt", "adamm"], "--opt adamm: .*expected an optimiser of timm.optim"),
    ([*TINY, "--opt", "lookahead_adamm"], "--opt lookahead_adamm"),
    (["--demo", "--epochs", "1", "--lr", "1e-3", "--channels-last"], "leave out --channels-last, --lr, or --demo"),
    (["--demo", "--recipe", "cifar10_burn"], "--demo takes .* leave out --recipe"),
])
def test_bad_options_are_one_line(argv, message):
    with pytest.raises(BurnError, match=message) as error:
        parse_options(argv)
    assert "\n" not in str(error.value)


def test_the_demonstration_takes_its_three_options():
    args = parse_options(["--demo", "--epochs", "1", "--max-steps", "2", "--output", "x"])
    assert (args.epochs, args.max_steps, args.output) == (1, 2, "x")


def test_digits_are_not_flipped_unless_asked():
    assert parse_options(TINY).hflip == parse_options([*TINY, "--dataset", "digits"]).hflip == 0
    assert parse_options([*TINY, "--dataset", "torch/cifar10"]).hflip == 0.5
    assert parse_options([*TINY, "--data-dir", "photos"]).hflip == 0.5
    assert parse_options([*TINY, "--hflip", "0.3"]).hflip == 0.3


def test_a_data_dir_alone_is_a_folder_of_images():
    assert parse_options(TINY).dataset == "digits"
    assert parse_options([*TINY, "--data-dir", "photos"]).dataset == ""
    assert parse_options([*TINY, "--data-dir", "shards", "--dataset", "wds/x"]).dataset == "wds/x"


@pytest.mark.parametrize("method", METHODS)
def test_the_methods_own_defaults_are_among_the_settings(method):
    argv = ["--model", "test_reactnet", "--method", method]
    settings = defining_options(parse_options([*argv, *(TINY[2:] if METHODS[method].teacher_output else [])]))
    named = [p for p in inspect.signature(METHODS[method]).parameters.values() if p.default is not p.empty]
    assert {p.name for p in named} <= settings.keys()
    for parameter in named:
        assert settings[parameter.name] is not None
    assert settings["view"] == METHODS[method].default_view
    assert settings["teacher_output"] == METHODS[method].teacher_output


def test_a_setting_that_is_given_beats_the_methods_own():
    assert parse_options(TINY).temperature == 1.0 and parse_options(TINY).head_dim == 2000
    assert parse_options([*TINY, "--temperature", "0.2"]).temperature == 0.2


def test_what_changes_the_views_is_among_the_settings_and_where_images_are_kept_is_not():
    settings = defining_options(parse_options([*TINY, "--cache", "disk", "--cache-size", "256", "--cache-dir", "x"]))
    assert settings["cache_size"] == 256 and settings["views_on"] == "workers"
    assert not {"cache", "cache_dir"} & settings.keys()


def test_a_recipe_sets_defaults_and_the_command_line_wins(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("lr: 1e-2\nbatch-size: 64\nstages: w1a1\n")
    args = parse_options([*TINY, "--recipe", str(recipe), "--batch-size", "32"])
    assert args.lr == pytest.approx(1e-2) and args.batch_size == 32 and args.stages == ["w1a1"]


@pytest.mark.parametrize("text, message", [
    ("learning_rate: 1", "unknown option 'learning_rate'"), ("stages: [w2a2]", "stages must be one of"),
    ("epochs: 5.5", "epochs: .*not int"), ("lr: [1, 2]", "takes one value"), ("sync_bn: 3", "true or false"),
    ("- a\n- b", "mapping"), ("a: [", "not valid YAML"),
])
def test_a_bad_recipe_is_one_line_that_names_the_file(tmp_path, text, message):
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(text)
    with pytest.raises(BurnError, match=f"bad.yaml: .*{message}"):
        parse_options([*TINY, "--recipe", str(recipe)])


def test_the_issues_flags_exist():
    flags = {flag for action in build_parser()._actions for flag in action.option_strings}
    named = """--model --teacher --teacher-checkpoint --method --dataset --data-dir --train-split --input-key
    --target-key --epochs --max-steps --batch-size --grad-accum-steps --opt --lr --weight-decay --warmup-epochs
    --clip-grad --img-size --stages --temperature --head-dim --lambda-0 --lambda-T --fs-loss --fs-on --views
    --kl-direction --target-head --seed --workers --threads --output --resume --recipe --push-to-hub
    --reset-target-head --no-teacher-pretrained --log-with""".split()
    assert not set(named) - flags
