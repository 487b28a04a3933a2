import json
import os
import re
from types import SimpleNamespace

import pytest
import timm
import torch
from PIL import Image

import eval_downstream
from burn_timm.errors import BurnError
from burn_timm.evals import knn
from burn_timm.evals.inputs import subset
from burn_timm.evals.logistic import PENALTIES

DIGITS = ["--dataset", "digits", "--workers", "0", "--img-size", "32"]
RESNET = ["--model", "test_resnet", *DIGITS]


def run(path, *options):
    eval_downstream.main([*options, "--output", str(path)])
    return json.loads(path.read_text())


@pytest.fixture
def output(tmp_path):
    return tmp_path / "results" / "r.json"  # the folder is made


def test_help_of_every_command(capsys):
    (commands,) = (action.choices for action in eval_downstream._parser()._actions if action.dest == "task")
    assert {*eval_downstream.TASKS, "table", "figures"} == set(commands)
    for words in ([], *([name] for name in commands)):
        with pytest.raises(SystemExit) as end:
            eval_downstream.main([*words, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        assert end.value.code == 0 and shown.startswith("usage: eval_downstream.py")
        assert ("places205: 14" in shown) == (words == ["transfer"])  # whose preset it is


@pytest.mark.parametrize(("task", "options", "stated"), [
    ("knn", ["--k", "10", "--temperature", "0.1"], {"k": 10, "temperature": 0.1}),
    ("linear", ["--epochs", "20", "--lrs", "0.1", "0.01"], {"epochs": 20, "lrs": [0.01, 0.1]}),
    ("transfer", ["--classifier", "lbfgs"], {"penalties": list(PENALTIES)}),
])
def test_random_network_on_digits(task, options, stated, output, capsys, caplog):
    result = run(output, task, *RESNET, "--limit-train", "400", "--limit-test", "150", "--seed", "3", *options)
    assert result["task"] == task and 0.2 < result["value"] <= 1
    assert result["model"] == "test_resnet" and result["checkpoint"] is None
    assert "--model test_resnet: its weights are random" in caplog.text  # timm has trained ones
    protocol = result["protocol"]
    assert protocol.items() >= {**stated, "weights": "random, seed 3", "seed": 3, "device": "cpu"}.items()
    assert protocol["feature_dim"] == timm.create_model("test_resnet", num_classes=0).num_features
    assert protocol["transform"]["input_size"] == [3, 32, 32] and protocol["transform"]["mean"] == [0.5, 0.5, 0.5]
    assert task == "knn" or result["extra"]["top5"] >= result["value"] and result["extra"]["sweep"]
    assert result["dataset"]["name"] == "digits" and result["dataset"]["classes"] == 10
    assert result["dataset"]["train"] == {"split": "train", "images": 400, "of": 1437}
    assert result["dataset"]["test"] == {"split": "validation", "images": 150, "of": 360}
    assert result["command"].startswith(f"python -m eval_downstream {task} --model test_resnet")
    # No path of this machine: nothing that starts with a slash, nor the folder this ran in.
    text = output.read_text()
    assert not re.search(r"(?<![\w.])/\w", text) and str(output.parent) not in text and os.getcwd() not in text
    assert f"{task} {100 * result['value']:.2f} % | test_resnet, random weights | digits" in capsys.readouterr().out


def test_the_figure_is_the_tasks_on_these_features(output):
    """The whole path again by hand, image by image, without loader, transform or kNN of ours."""
    from sklearn.neighbors import KNeighborsClassifier

    from burn_timm.data import open_dataset

    options = ["--limit-train", "150", "--limit-test", "50", "--k", "1", "--seed", "5"]
    value = run(output, "knn", *RESNET, *options)["value"]

    torch.manual_seed(5)
    model = timm.create_model("test_resnet", num_classes=0).eval()

    def features(split, count):
        source = open_dataset("digits", None, split)
        chosen = torch.randperm(len(source), generator=torch.Generator().manual_seed(5))[:count]
        rows = []
        for index in chosen.tolist():
            image, _ = source.load(index)
            image = image.resize((33, 33), Image.Resampling.BILINEAR).crop((0, 0, 32, 32))  # 32 / 0.95, centre crop
            pixels = torch.tensor(list(image.tobytes()), dtype=torch.float32).view(32, 32, 3).permute(2, 0, 1)
            rows.append(model((pixels / 255 - 0.5)[None] / 0.5)[0])
        return torch.stack(rows).detach().numpy(), [source.load(i)[1] for i in chosen.tolist()]

    reference = KNeighborsClassifier(1, metric="cosine").fit(*features("train", 150))
    assert value == pytest.approx(reference.score(*features("validation", 50)), abs=0.021)


def test_pixels(output):
    result = run(output, "knn", "--pixels", "--dataset", "digits", "--workers", "0", "--val-split", "test")
    assert result["value"] > 0.9
    assert result["model"] == "pixels" and result["checkpoint"] is None
    assert result["protocol"]["feature_dim"] == 3 * 8 * 8 and "raw pixels" in result["protocol"]["features_of"]
    assert result["dataset"]["test"]["split"] == "test"


def test_calibrated_batchnorm_and_another_input_size(output, caplog):
    subset = ["--limit-train", "200", "--limit-test", "100"]
    plain = run(output, "knn", *RESNET, *subset)
    calibrated = run(output, "knn", *RESNET, *subset, "--calibrate-bn", "150", "--batch-size", "64")
    stated = calibrated["protocol"]["calibrated_batchnorm"]
    assert stated["layers"] > 5 and stated["images"] == 128 and stated["batch_size"] == 64
    assert calibrated["value"] != plain["value"]
    vit = run(output, "knn", "--model", "test_vit", *DIGITS, "--img-size", "48", "--limit-train", "40",
              "--interpolation", "bilinear")
    assert vit["protocol"]["transform"]["input_size"] == [3, 48, 48]  # of a network of fixed size
    assert vit["protocol"]["transform"]["interpolation"] == "bilinear"
    assert "figures are lower" not in caplog.text  # random weights are of no size
    run(output, "knn", "--model", "reactnet_a_025_burn", "--pretrained", *DIGITS, "--limit-train", "20")
    assert "--img-size 32: reactnet_a_025_burn is for 64 px; figures are lower" in caplog.text


@pytest.mark.parametrize(("argv", "message"), [
    (["abacus"], "invalid choice"),
    ([], "required"),
    (["knn", *RESNET, "--epochs", "3"], "unrecognized arguments"),
    (["knn", *DIGITS], "one of the arguments --model --pixels is required"),
    (["finetune", *DIGITS], "required: --model"),
    (["knn", *DIGITS, "--model", "no_such_net"], "no_such_net"),
    (["knn", *RESNET, "--checkpoint", "missing.safetensors"], "missing.safetensors"),
    (["knn", *RESNET, "--checkpoint", __file__], os.path.basename(__file__)),
    (["knn", *RESNET, "--checkpoint", "a", "--pretrained"], "not allowed with argument --checkpoint"),
    (["knn", *RESNET, "--pixels"], "not allowed with argument --model"),
    (["knn", *DIGITS, "--pixels", "--calibrate-bn", "8"], "leave out --calibrate-bn"),
    (["linear", *DIGITS, "--pixels", "--augment"], "leave out --augment"),
    (["knn", *DIGITS, "--pixels", "--crop-pct", "0.9"], "leave out --crop-pct"),
    (["linear", *RESNET, "--augment", "--engine", "c"], "--engine c takes neither"),
    (["transfer", *RESNET, "--classifier", "lbfgs", "--probe", "mlp", "--lrs", "1"], "leave out --probe, --lrs"),
    (["knn", "--model", "test_resnet", "--data-dir", "missing"], "missing"),
    (["knn", *RESNET, "--val-split", "nope"], "nope"),
    (["knn", *RESNET, "--batch-size", "0"], "--batch-size: expected a whole number of at least 1, not 0"),
    (["knn", *RESNET, "--device", "abacus"], "--device abacus"),
    (["knn", *RESNET, "--limit-train", "999999"], "--limit-train 999999: there are only 1437"),
    (["knn", *RESNET, "--limit-train", "20", "--k", "21"], "--k 21, but there are 20 training images"),
    (["knn", "--model", "test_vit", "--dataset", "digits", "--img-size", "3"], "3x3"),
    (["knn", *RESNET, "--output", os.path.dirname(__file__)], "is a folder"),
    (["knn", *RESNET, "--output", f"{__file__}/r.json"], "its folder cannot be made"),
])
def test_bad_input_is_one_line_and_exit_code_2(argv, message, eval_fails, tmp_path):
    output = [] if len(argv) < 2 or "--output" in argv else ["--output", str(tmp_path / "r.json")]
    assert message in eval_fails(*argv, *output) and not any(tmp_path.iterdir())


def test_a_stream_has_no_random_subset_and_no_picture():
    stream = SimpleNamespace(streaming=True)
    with pytest.raises(BurnError, match="--neighbours needs images by number"):
        knn.settings(SimpleNamespace(neighbours="n.png", output=None), stream)
    assert subset(stream, None, 0, "--limit-test") is stream
    with pytest.raises(BurnError, match="--limit-test needs images by number"):
        subset(stream, 5, 0, "--limit-test")


@pytest.mark.skipif("BURN_DATA" not in os.environ, reason="BURN_DATA names no folder of datasets")
def test_photos_from_parquet_without_a_path_of_this_machine(output):
    data = os.environ["BURN_DATA"]
    options = ["--input-key", "img", "--target-key", "label", "--img-size", "32", "--workers", "0"]
    result = run(
        output, "knn", "--model", "test_resnet", "--dataset", f"hfds/{data}/cifar10", *options,
        "--limit-train", "300", "--limit-test", "100", "--calibrate-bn", "64",
    )  # fmt: skip
    assert result["value"] > 0.1
    assert result["dataset"]["name"] == "hfds/$BURN_DATA/cifar10" and data not in output.read_text()
    assert result["dataset"]["train"]["of"] == 50000
    assert result["dataset"]["test"] == {"split": "test", "images": 100, "of": 10000}
    assert "--dataset hfds/$BURN_DATA/cifar10" in result["command"]
