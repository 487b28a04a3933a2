"""eval_downstream.py --engine: features of the 1-bit engine, and accuracy compared, not assumed."""

import importlib
import json
from pathlib import Path

import pytest
import torch

import eval_downstream
from burn_timm.data import eval_loader, open_dataset, random_subset
from burn_timm.evals.features import calibrate_batchnorm, eval_transform
from deploy.networks import errors, lively

pytest.importorskip("openvino")

from burn_timm.deploy.backbone import engine_backbone
from burn_timm.deploy.engine import load
from burn_timm.deploy.export import export

DIGITS = ["--model", "test_reactnet", "--dataset", "digits", "--workers", "0", "--img-size", "64",
          "--limit-train", "300", "--limit-test", "90", "--calibrate-bn", "256", "--batch-size", "64"]


@pytest.mark.parametrize("task", [["knn"], ["linear", "--epochs", "10", "--lrs", "0.1"]])
def test_a_task_through_the_engine(task, tmp_path):
    values = {}
    for engine in ("torch", "openvino", "numba"):
        path = tmp_path / f"{engine}.json"
        eval_downstream.main([*task, *DIGITS, "--engine", engine, "--threads", "1", "--output", str(path)])
        result = json.loads(path.read_text())
        values[engine] = result["value"]
        if engine != "torch":
            version = importlib.import_module(engine).__version__
            assert result["protocol"]["engine"] == {"name": f"{engine}, 1-bit kernels", "version": version}
    assert values["torch"] > 0.3
    assert all(abs(value - values["torch"]) <= 0.04 for value in values.values())


@pytest.mark.parametrize("option", [
    ["--pixels"], ["--model", "test_resnet"], ["--model", "test_reactnet", "--device", "meta"],
])
def test_what_the_engine_cannot_do(option, tmp_path, capsys):
    options = ["--dataset", "digits", "--workers", "0", "--img-size", "32", "--engine", "openvino"]
    with pytest.raises(SystemExit) as caught:
        eval_downstream.main(["knn", *options, *option, "--output", str(tmp_path / "r.json")])
    err = capsys.readouterr().err
    assert caught.value.code == 2 and ("--engine openvino takes" in err or "no binary convolutions" in err)
    assert err.rstrip("\n").splitlines()[-1].startswith("eval_downstream.py: error: ")


@pytest.mark.parametrize("engine", ["openvino", "numba"])
def test_any_number_of_images(digits, engine):
    model = lively(num_classes=0)
    backbone, _ = engine_backbone(model, 32, batch_size=4, threads=1, engine=engine)
    images = digits[0][:11].float() / 255 - 0.5
    got = backbone(images)
    assert got.shape == (11, 128) and errors(got, model(images).detach()).median() < 1e-4
    assert torch.equal(got[9:], backbone(images[9:]))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "numba"])
@pytest.mark.parametrize("dataset", ["cifar10", "tiny-imagenet-80"])
def test_real_photos(dataset, engine, burn_data, record_property, tmp_path):
    """Argmax on at least 99 % of 500 real photos as torch has it, and how far the features are off."""
    if not (Path(burn_data) / dataset).is_dir():
        pytest.skip(f"{dataset} is not in BURN_DATA")
    torch.manual_seed(0)
    model = lively("reactnet_a_025", num_classes=10)
    transform = eval_transform(model, 64)
    source = random_subset(open_dataset(f"hfds/{burn_data}/{dataset}", None, "train"), 756, 0)
    images = torch.cat([batch for batch, _ in eval_loader(source, transform, 63, 0)])
    calibrate_batchnorm(model, images[500:].split(64))
    images = images[:500]
    with torch.no_grad():
        features = torch.cat([model.forward_head(model.forward_features(x), pre_logits=True) for x in images.split(50)])
        # A random classifier gives many classes equal scores. This one tells the photos apart, as a trained one does.
        centred = features - features.mean(0)
        directions = torch.linalg.svd(centred, full_matrices=False)[2][:10]
        model.head.fc.weight.copy_(directions)
        model.head.fc.bias.copy_(-directions @ features.mean(0))
        logits = model.head.fc(features)
    export(model, tmp_path / "net", engine, img_size=64, batch_size=50)
    loaded = load(tmp_path / "net", threads=1)
    got_features = torch.cat([loaded.features(x) for x in images.split(50)])
    got_logits = torch.cat([loaded(x) for x in images.split(50)])
    error = errors(got_features, features)
    agree = (got_logits.argmax(1) == logits.argmax(1)).double().mean()
    record_property("summary", f"{engine}, {dataset}: argmax equal on {100 * agree:.1f} % of 500 photos; relative "
                               f"error of features: median {error.median():.1e}, mean {error.mean():.1e}, "
                               f"most {error.max():.1e}")
    assert len(logits.argmax(1).unique()) >= 5 and agree >= 0.99 and error.median() < 1e-2
