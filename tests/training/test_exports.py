"""What a run exports and what its figures are: sizes, vision transformers, classifiers, accuracies, teachers."""

import dataclasses
import json

import pytest
import timm
import torch
import torch.nn.functional as F
from data.pictures import write
from safetensors.torch import load_file

from burn_timm.checkpoints import load_model
from burn_timm.convert.moco import load_moco_teacher
from burn_timm.data.datasets import open_dataset
from burn_timm.data.loader import seed_for
from burn_timm.evals.features import eval_transform
from burn_timm.methods.base import Method
from burn_timm.packing import is_packed
from burn_timm.training import measure
from burn_timm.training.build import build_teacher, with_classifier
from burn_timm.training.centre import centre
from burn_timm.training.options import parse_options
from burn_timm.training.processes import make_accelerator
from burn_timm.training.run import teacher_method
from burn_timm.training.teacher_cache import TeacherCache, filled_cache
from eval_downstream import main as evaluate

from .runs import DIGITS, FIGURE_IMAGES, ONE_STEP, SHORT, TEACHER, checkpoint, here, log, options_of, words_of

LAST_SHIFT = "stages.3.0.act2.shift2.bias"  # of test_reactnet


def exported(folder):
    return timm.create_model(f"local-dir:{folder / 'export'}", pretrained=True).eval()


def test_the_export_has_its_own_size_and_the_weights_are_the_same(tmp_path):
    """Nothing depends on it but the mean that the last shift takes away, so a run may be resumed with another one."""
    runs = []
    for options in ("", "--export-img-size 48 --resume auto"):
        summary = here(ONE_STEP, "--val-split validation --output", tmp_path, options)
        runs.append((summary, exported(tmp_path)))
    (plain, one), (larger, other) = runs
    assert (plain["export_img_size"], larger["export_img_size"], larger["img_size"]) == (32, 48, 32)
    assert [model.pretrained_cfg["input_size"] for model in (one, other)] == [(3, 32, 32), (3, 48, 48)]
    states = one.state_dict(), other.state_dict()
    assert [name for name in states[0] if not torch.equal(states[0][name], states[1][name])] == [LAST_SHIFT]
    assert plain["knn_student"] != larger["knn_student"]  # measured at the size of the export


@pytest.mark.parametrize(("model", "changes"), [
    ("test_reactnet", True), ("test_reactnet --model-kwargs global_pool=avgmax", True),
    ("test_reactnet --model-kwargs global_pool=catavgmax", False), ("test_reactnet_mlp", False), ("test_resnet", False),
])
def test_exported_features_have_mean_zero_and_logits_stay(model, changes):
    options, digits = parse_options(words_of(SHORT, "--model", model)), open_dataset("digits")
    student = measure.build_student(options, options.stages[-1], 0).eval()
    classifier = torch.nn.Linear(student.head_hidden_size, 10)
    splits, transform = [digits.subset(range(0, 1437, 3))], eval_transform(measure.export_config(options, student))

    def features():
        return measure.features_of(student, splits, transform, options, torch.device("cpu"))[0]

    before = features()
    logits = classifier(before)
    assert centre(student, options, digits, torch.device("cpu"), classifier) == changes
    after = features()
    torch.testing.assert_close(classifier(after), logits, atol=1e-3, rtol=1e-3)
    assert torch.equal(before, after) != changes
    assert (after.mean(0).norm() < 0.1 * before.mean(0).norm()) == changes
    torch.testing.assert_close(after - after.mean(0), before - before.mean(0), atol=1e-3, rtol=1e-3)


def test_an_exported_classifier_gives_the_logits_that_were_trained(tmp_path, digits):
    options = "--model test_reactnet --stages w1a1 --max-steps 3 --lr 0.03 --val-split none --output"
    assert here(options_of("supervised"), options, tmp_path)["centred"]
    state, model = checkpoint(tmp_path)["method"], timm.create_model("test_reactnet", num_classes=10).eval()
    names = {"backbone.model.": "", "student_head.": "head.fc."}
    model.load_state_dict({name.replace(old, new): state[name] for old, new in names.items() for name in state
                           if name.startswith(old)})
    images = (digits[0][:64].float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        packed, trained = exported(tmp_path)(images), model(images)
    torch.testing.assert_close(packed, trained, atol=1e-3, rtol=1e-3)


def test_images_that_cannot_be_read_cost_no_export(tmp_path, caplog):
    for number in range(3):
        write(tmp_path / "a" / f"{number}.png", number, 8, cut=60)
    options = parse_options(words_of(SHORT))
    student = measure.build_student(options, "w1a1", 0).eval()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    assert not centre(student, options, open_dataset("folder", tmp_path), torch.device("cpu"))
    assert "features are not centred" in caplog.text
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())


def test_features_that_are_not_finite_are_not_centred(caplog):
    student = measure.build_student(parse_options(words_of(SHORT)), "w1a1", 0).eval()
    with torch.no_grad():
        student.get_parameter(LAST_SHIFT)[3] = float("inf")
    assert not centre(student, parse_options(words_of(SHORT)), open_dataset("digits"), torch.device("cpu"))
    assert "features are not centred: some of them are NaN or infinite" in caplog.text
    assert student.get_parameter(LAST_SHIFT).isinf().sum() == 1 and student.get_parameter(LAST_SHIFT).isnan().sum() == 0


def test_a_vit_teaches_at_its_own_size_and_at_another(tmp_path):
    vit = timm.create_model("test_vit", num_classes=0)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    options = f"{ONE_STEP} --batch-size 8 --teacher test_vit --teacher-checkpoint {tmp_path / 'vit.pth'}"
    at_32 = here(options, "--val-split validation --output", tmp_path / "at_32")
    options = options.replace("--teacher-img-size 32", "")
    own = here(options, "--output", tmp_path / "own")
    assert (at_32["settings"]["teacher_img_size"], own["settings"]["teacher_img_size"]) == (32, 160)
    one, other = (checkpoint(tmp_path / name)["identity"]["teacher"] for name in ("at_32", "own"))
    assert one["size"] == [32, 32] and other["size"] == [160, 160] and one["sha256"] == other["sha256"]
    assert 0 < at_32["knn_teacher"] <= 1


def test_a_run_from_trained_weights_tells_no_figure_of_untrained_ones(tmp_path):
    first = tmp_path / "first"
    here(ONE_STEP, "--model-kwargs global_pool=max --act-grad clip --output", first)
    summary = here(ONE_STEP, f"--initial-checkpoint {first}/latent.safetensors --teacher local-dir:{first}/export",
                   "--teacher-pretrained --val-split validation --output", tmp_path / "second")
    assert "knn_student" in summary and "knn_untrained" not in summary and summary["teacher_method"] == "burn"
    for run, act_grad in (("first", "clip"), ("second", "approx")):  # the pooling stays; --act-grad is a run's own
        model = load_model("test_reactnet", tmp_path / run / "latent.safetensors")
        assert model.head.global_pool.pool_type == "max" and model.stages[0][0].sign1.act_grad == act_grad


def test_a_teachers_method_is_that_of_its_weights(tmp_path):
    """Not that of a folder whose weights it does not have: a card says by it whether labels entered."""
    folders = {}
    for method in ("supervised", "simclr"):
        folders[method] = tmp_path / method / "export"
        folders[method].mkdir(parents=True)
        (folders[method] / "model.safetensors").touch()
        summary = {"method": method, "model": "test_resnet", "settings": {}}
        (folders[method].parent / "summary.json").write_text(json.dumps(summary))
    options = parse_options(words_of(SHORT, "--teacher", f"local-dir:{folders['simclr']}"))
    weights = folders["supervised"] / "model.safetensors"
    found = [teacher_method(dataclasses.replace(options, **changes)) for changes in (
        {"teacher_pretrained": True}, {}, {"teacher_checkpoint": str(weights)}, {"teacher": None},
    )]
    assert found == ["simclr", None, "supervised", None]


def test_a_vit_trained_at_another_size_is_exported_at_it(tmp_path):
    here(options_of("simclr"), "--model test_vit --max-steps 1 --val-split none --output", tmp_path)
    state, prefix = checkpoint(tmp_path)["method"], "backbone.model."
    trained = timm.create_model("test_vit", num_classes=0, img_size=32).eval()
    trained.load_state_dict({name[len(prefix) :]: state[name] for name in state if name.startswith(prefix)})
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(exported(tmp_path)(images), trained(images))


@pytest.mark.parametrize(("options", "classes"), [
    (options_of("supervised"), 10), (options_of("supervised_kl"), 1000),
    (f"{options_of('byol')} --hidden-dim 16 --head-dim 6", 0),
])
def test_a_floating_point_network_trains_and_its_export_loads(options, classes, tmp_path):
    summary = here(options, "--model test_resnet --stages fp --max-steps 2 --batch-size 16 --val-split none --output",
                   tmp_path)
    assert summary["stages"] == ["fp"] and summary["settings"]["seed"] == 42
    weights = load_file(tmp_path / "export" / "model.safetensors")
    model = exported(tmp_path)
    assert model.num_classes == classes and not is_packed(weights)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    torch.manual_seed(seed_for(42, 0))  # two steps: the last BatchNorm of a residual branch starts at zero
    start = timm.create_model("test_resnet", num_classes=0).state_dict()
    assert [name for name, tensor in start.items() if torch.equal(tensor, weights[name])] == []


def test_a_classifier_that_cannot_be_exported_is_an_error_before_the_training(refused):
    model, classifier = timm.create_model("resnetv2_18", num_classes=0).eval(), torch.nn.Linear(512, 10)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(with_classifier(model, classifier)(images), classifier(model(images)))
    line = refused("--method supervised --model efficientformerv2_s0 --workers 0")
    assert "--model: a network whose classifier is not one linear layer (tuple)" in line


@pytest.mark.slow  # trains to some accuracy
def test_the_classifier_is_exported_and_predicts(tmp_path, digits):
    here(options_of("supervised"), "--epochs 6 --lr 3e-3 --stages w1a1 --output", tmp_path)
    top1 = log(tmp_path, "top1")
    assert top1[-1] > top1[0]
    model = exported(tmp_path)
    assert model.num_classes == 10
    images, labels = digits
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        predicted = model((images[:500].float() / 255 - mean) / std).argmax(-1)
    assert (predicted == labels[:500]).double().mean() > 0.5


# Accuracies ----------------------------------------------------------------------------------------------------------


def test_figures_during_training_are_those_of_the_export_and_change_nothing(tmp_path):
    run = f"{SHORT} --stages w1a1 --max-steps 6 --log-interval 4 --output"
    here(run, tmp_path / "plain", "--val-split none")
    summary = here(run, tmp_path / "watched", "--knn-steps 3 --linear-steps 2")
    lines = log(tmp_path / "watched")
    assert [line["step"] for line in lines] == [2, 3, 4, 6]  # those of --log-interval besides
    assert [line["step"] for line in lines if "knn" in line] == [3, 6]
    assert [line["step"] for line in lines if "linear" in line] == [2, 4, 6]
    assert lines[-1]["knn"] == summary["knn_student"] != lines[1]["knn"]
    weights = [(tmp_path / name / "latent.safetensors").read_bytes() for name in ("plain", "watched")]
    assert weights[0] == weights[1]
    limits = "--seed 42 --limit-train {} --limit-test {}".format(*FIGURE_IMAGES)  # those of the run
    evaluate(words_of(
        f"linear --dataset digits --val-split validation --threads 1 --workers 0 {limits}",
        f"--model local-dir:{tmp_path}/watched/export --output {tmp_path / 'linear.json'}",
    ))
    value = json.loads((tmp_path / "linear.json").read_text())["value"]
    assert lines[-1]["linear"] == pytest.approx(value, abs=0.01) != lines[0]["linear"]  # the same images and protocol


def test_calibration_makes_the_views_of_the_training(monkeypatch):
    made = []
    make_view = measure.make_view
    monkeypatch.setattr(measure, "make_view", lambda *args: made.append(args) or make_view(*args))
    options = parse_options(words_of(SHORT, "--train-interpolation bilinear"))
    measure.untrained(options, "w1a1", open_dataset("digits"), torch.device("cpu"))
    assert made == [("light", 32, 0.0, "bilinear")]


def test_training_gains_and_the_log_has_its_keys(tmp_path):
    summary = here(SHORT, "--lr 3e-3 --epochs 1 --output", tmp_path)
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert summary["knn_student"] > summary["knn_untrained"] + 0.1
    keys = (
        "step epoch stage loss loss_kl loss_fs lambda grad_norm_student grad_norm_student_head grad_norm_target_head "
        "entropy_of_mean mean_entropy target_information lr images_per_s data_wait"
    )
    lines = log(tmp_path)
    for line in lines:
        assert set(keys.split()) <= line.keys() and 0 <= line["data_wait"] <= 1
        information = line["entropy_of_mean"] - line["mean_entropy"]
        assert line["target_information"] == pytest.approx(information, abs=1e-4)
    assert [line["stage"] for line in lines] == sorted((line["stage"] for line in lines), reverse=True)
    # The export, loaded by timm alone, is the trained network bit for bit.
    latent = timm.create_model("test_reactnet", num_classes=0).eval()
    latent.load_state_dict(load_file(tmp_path / "latent.safetensors"))
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(exported(tmp_path)(images), latent(images))


# Teachers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "view"), [(1, "none"), (3, "light")])
def test_a_cached_teacher_is_the_teacher_asked_about_the_same_views_in_every_step(tmp_path, monkeypatch, count, view):
    kept = f"--cache-dir {tmp_path} --cache-teacher {count} --view {view}"
    options = f"{ONE_STEP} --train-split test --max-steps 3 --lambda-0 1 {kept} --output"
    here(options, tmp_path / "kept")
    asked = []

    def live(self, batch, images):
        asked.append(batch["teacher"])
        return self.teacher(images).half().float()  # rounded as in the file

    monkeypatch.setattr(Method, "taught", live)
    here(options, tmp_path / "live")
    assert len(asked) == 3
    weights = [(tmp_path / name / "latent.safetensors").read_bytes() for name in ("kept", "live")]
    assert weights[0] == weights[1]


def test_another_teacher_view_or_set_has_cached_files_of_its_own(tmp_path, monkeypatch):
    """A run that differs in the student alone shares them."""
    monkeypatch.setattr(TeacherCache, "fill", lambda *args: 0)
    accelerator, digits = make_accelerator("none", tmp_path), open_dataset("digits")

    def files(words: str = "", source=digits) -> list:
        options = parse_options(words_of(SHORT, "--cache-teacher 2", words, "--cache-dir", tmp_path))
        return filled_cache(options, source, *build_teacher(options), accelerator).paths

    shared, other_set = files(), files(source=open_dataset("digits", split="test"))
    others = [files(words) for words in ("--teacher-kwargs global_pool=max", "--seed 1", "--view burn")]
    assert files("--lr 2e-3") == shared
    assert len({*shared, *sum(others, other_set)}) == 2 * 5


@pytest.fixture(scope="module")
def moco(tmp_path_factory):
    """Path, encoder without head, and the head's tensors of a file in the layout of MoCo v2."""
    torch.manual_seed(0)
    encoder = timm.create_model("test_resnet", num_classes=0).eval()
    width = encoder.num_features
    head = {"fc.0.weight": torch.randn(width, width) / 8, "fc.0.bias": torch.randn(width),
            "fc.2.weight": torch.randn(6, width) / 8, "fc.2.bias": torch.randn(6)}
    query = {**encoder.state_dict(), **head}
    state_dict = {f"module.encoder_q.{name}": tensor for name, tensor in query.items()}
    state_dict |= {f"module.encoder_k.{name}": torch.zeros_like(tensor) for name, tensor in query.items()}
    state_dict |= {"module.queue": torch.randn(6, 32), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    path = tmp_path_factory.mktemp("moco") / "moco.pth.tar"
    torch.save({"epoch": 800, "arch": "resnet50", "state_dict": state_dict, "optimizer": {}}, path)
    return path, encoder, head


def test_a_moco_teacher_is_the_query_encoder_with_its_head(moco, digits):
    path, encoder, head = moco
    images = digits[0][:4].float() / 255
    with torch.no_grad():
        features = encoder(images)
        hidden = F.linear(features, head["fc.0.weight"], head["fc.0.bias"]).clamp(min=0)
        logits = F.linear(hidden, head["fc.2.weight"], head["fc.2.bias"])
        torch.testing.assert_close(load_moco_teacher("test_resnet", str(path), "logits")(images), logits)
        torch.testing.assert_close(load_moco_teacher("test_resnet", str(path), "features")(images), features)


def test_s2bnn_learns_from_it(moco, tmp_path):
    summary = here(
        DIGITS, TEACHER, "--method s2bnn --teacher-output logits --stages w1a1 --max-steps 1 --val-split none",
        "--teacher-checkpoint", moco[0], "--output", tmp_path / "run",
    )
    assert "knn_teacher" not in summary
    assert checkpoint(tmp_path / "run")["method"]["student_head.2.weight"].shape[0] == 6  # its head's outputs
