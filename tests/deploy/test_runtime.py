"""deploy.load and the object it gives: timm's face, one clear line for everything that is wrong, and evaluations."""

import importlib
import json
import multiprocessing
import os
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import timm
import torch

import eval_downstream
from burn_timm.deploy import load
from burn_timm.deploy.export import export, pooled_features
from burn_timm.errors import BurnError
from deploy.networks import errors, images_of, lively

pytest.importorskip("openvino")

FORMATS = ("openvino", "c")


@pytest.fixture(scope="module", params=FORMATS)
def exported(request, tmp_path_factory):
    model = lively(num_classes=7)
    model.pretrained_cfg = {**model.pretrained_cfg, "crop_pct": 0.9, "mean": (0.1, 0.2, 0.3), "input_size": (3, 64, 64),
                            "label_names": list("abcdefg")}
    folder = tmp_path_factory.mktemp("exported") / "net"
    export(model, folder, request.param, batch_size=2)
    return model, folder


@pytest.fixture
def images(digits):
    return images_of(digits, (2, 3, 64, 64))


@pytest.mark.parametrize("call", ["__call__", "features", "forward_features"])
def test_the_face_of_timm(exported, images, call):
    model, folder = exported
    loaded = load(folder, threads=1)
    with torch.no_grad():
        feature_map = model.forward_features(images)
        expected = {
            "__call__": model(images), "features": model.forward_head(feature_map, pre_logits=True),
            "forward_features": feature_map,
        }[call]
    got = getattr(loaded, call)(images)
    assert isinstance(got, torch.Tensor) and got.dtype == torch.float32 and got.shape == expected.shape
    assert errors(got, expected).median() < 2e-3
    channels_last = images.to(memory_format=torch.channels_last)
    for x in (images.numpy(), images.double().numpy(), channels_last.numpy()):
        other = getattr(loaded, call)(x)
        assert isinstance(other, np.ndarray)
        np.testing.assert_array_equal(other, got.numpy())
    for count in (1, 5):  # the folder's batches have two images
        more, theirs = (torch.cat([two, two.flip(0), two])[:count] for two in (images, got))
        torch.testing.assert_close(getattr(loaded, call)(more), theirs, rtol=0, atol=0)


@pytest.mark.parametrize("format", FORMATS)
def test_an_image_with_a_nan_gives_nan_alone(tmp_path, images, format):
    export(lively(num_classes=0, global_pool="max"), tmp_path / "net", format, batch_size=2)
    images[1, 0, 20, 20] = torch.nan
    assert load(tmp_path / "net", threads=1)(images).isnan().all(1).tolist() == [False, True]


def test_threads_share_a_model_and_results_stay(exported, images):
    loaded = load(exported[1], threads=1)
    inputs = [images * scale for scale in (1, 0.5, -1, 2)] * 8
    results = [loaded(x) for x in inputs]
    expected = [result.clone() for result in results]
    with ThreadPoolExecutor(4) as pool:
        assert all(map(torch.equal, pool.map(loaded, inputs), expected))
    assert all(map(torch.equal, results, expected))  # a call does not overwrite what another one gave


def _in_child(loaded, images, queue):
    queue.put(loaded(images))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_does_not_wait_for_a_thread_that_it_has_not(tmp_path, images):
    export(lively(), tmp_path / "net", "c", batch_size=2)
    loaded, images, context = load(tmp_path / "net", threads=1), images.numpy(), multiprocessing.get_context("fork")
    expected, queue, stop = loaded(images), context.Queue(), threading.Event()

    def run():
        while not stop.is_set():
            loaded(images)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(run)
        children = [context.Process(target=_in_child, args=(loaded, images, queue), daemon=True) for _ in range(5)]
        try:
            for child in children:
                child.start()
        finally:
            stop.set()
    for _ in children:
        np.testing.assert_array_equal(queue.get(timeout=20), expected)


def test_it_knows_what_a_user_needs(exported):
    model, folder = exported
    loaded = load(folder)
    assert (loaded.architecture, loaded.batch_size, loaded.input_size) == ("test_reactnet", 2, (3, 64, 64))
    assert (loaded.num_classes, loaded.num_features, loaded.label_names) == (7, 128, list("abcdefg"))
    assert timm.data.resolve_model_data_config(loaded) == timm.data.resolve_model_data_config(model)


def test_wrong_images_and_threads(exported):
    loaded = load(exported[1])
    for x, message in (
        (torch.zeros(2, 64, 64, 3), r"images are \[2, 64, 64, 3\], but .* takes \[B, 3, 64, 64\], channels first"),
        (torch.zeros(3, 64, 64), "B at least 1"), (torch.zeros(0, 3, 64, 64), "B at least 1"),
        (np.zeros((2, 3, 32, 64), np.float32), r"images are \[2, 3, 32, 64\], but"),
        (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), "expected floats"), ([0.0], "expected a torch tensor"),
        (torch.full((2, 3, 64, 64), -255.0), "values as large as 255: expected pixels of 0 to 1, normalised"),
    ):
        with pytest.raises(BurnError, match=message):
            loaded(x)
    for threads in (0, 1.5, "2"):
        with pytest.raises(BurnError, match="threads must be a whole number of at least 1"):
            load(exported[1], threads=threads)
    with pytest.raises(BurnError, match="config.json: no such folder; expected one that burn-timm export wrote"):
        load(exported[1] / "config.json")


@pytest.mark.parametrize("format", FORMATS)
def test_without_pooling_there_are_no_pooled_features(tmp_path, images, format):
    export(lively(num_classes=0, global_pool=""), tmp_path / "net", format, batch_size=2)
    loaded = load(tmp_path / "net")
    assert loaded(images).shape == (2, 128, 4, 4)
    with pytest.raises(BurnError, match="without pooling: use forward_features"):
        loaded.features(images)


def edit(**changes):
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(("name", "change", "message"), [
    ("weights", lambda path: path.write_bytes(path.read_bytes()[:-10]), "truncated, damaged or from another export"),
    ("weights", lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), "truncated, damaged"),
    ("weights", lambda path: path.unlink(), "cannot be read"),
    ("config.json", lambda path: path.unlink(), "config.json: no such file"),
    ("config.json", lambda path: path.write_text("{"), "config.json: cannot be read"),
    ("config.json", edit(format="timm"), "no 1-bit network; write one with: burn-timm export"),
    ("config.json", edit(format_version=9), "format_version 9, but this burn_timm reads only 1"),
    ("config.json", edit(format=["burn-timm-c"]), "no 1-bit network"),
    ("config.json", edit(architecture=None), "config.json: architecture must be the name of a model"),
    ("config.json", edit(batch_size="2"), "config.json: batch_size must be a whole number, 1 or more"),
    ("config.json", edit(batch_size=-1), "config.json: batch_size must be"),
    ("config.json", edit(num_features=None), "config.json: num_features must be"),
    ("config.json", edit(num_classes=True), "config.json: num_classes must be"),
    ("config.json", edit(pretrained_cfg=None), "config.json: pretrained_cfg must be an object with input_size"),
    ("config.json", edit(pretrained_cfg={"input_size": [3, "64", 64]}), "config.json: input_size must be"),
    ("config.json", edit(files=["network.bin"]), "config.json: files must be an object"),
    ("config.json", edit(files={}), "from another export"),
])
def test_a_damaged_folder(exported, tmp_path, name, change, message):
    shutil.copytree(exported[1], tmp_path / "net")
    for file in list((tmp_path / "net").iterdir()):
        if file.name == name or (name == "weights" and file.name != "config.json"):
            change(file)
    with pytest.raises(BurnError, match=message) as caught:
        load(tmp_path / "net")
    assert "\n" not in str(caught.value) and str(tmp_path / "net") in str(caught.value)


def test_without_openvino(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    folder = exported[1]
    if (folder / "network.bin").exists():
        assert load(folder).num_classes == 7  # the C engine does not need it
        return
    with pytest.raises(BurnError, match=r'needs the package openvino: pip install "burn-timm\[openvino\]"'):
        load(folder)


@pytest.mark.parametrize("format", FORMATS)
def test_pooled_features_of_any_number_of_images(digits, format):
    model, images = lively(num_classes=0), images_of(digits, (11, 3, 32, 32))
    features, _ = pooled_features(model, 32, batch_size=4, threads=1, format=format)
    got = features(images)
    assert got.shape == (11, 128) and errors(got, model(images).detach()).median() < 1e-4
    assert torch.equal(got[9:], features(images[9:]))


DIGITS = ["--model", "test_reactnet", "--dataset", "digits", "--workers", "0", "--img-size", "64",
          "--limit-train", "200", "--limit-test", "60", "--calibrate-bn", "128", "--batch-size", "64"]


def test_an_evaluation_through_the_engines(tmp_path):
    values = {}
    for engine in ("torch", *FORMATS):
        path = tmp_path / f"{engine}.json"
        eval_downstream.main(["knn", *DIGITS, "--engine", engine, "--threads", "1", "--output", str(path)])
        result = json.loads(path.read_text())
        values[engine] = result["value"]
        if engine != "torch":
            version = importlib.import_module("burn_timm" if engine == "c" else engine).__version__
            assert result["protocol"]["engine"] == {"name": f"{engine}, 1-bit kernels", "version": version}
    assert values["torch"] > 0.3 and all(abs(value - values["torch"]) <= 0.04 for value in values.values())


@pytest.mark.parametrize(("option", "message"), [
    (["--pixels"], "--engine openvino takes"), (["--model", "test_resnet"], "no binary convolutions"),
    (["--model", "test_reactnet", "--device", "meta"], "--engine openvino takes"),
])
def test_what_an_evaluation_cannot_do(option, message, tmp_path, eval_fails):
    options = ["--dataset", "digits", "--workers", "0", "--img-size", "32", "--engine", "openvino"]
    assert message in eval_fails("knn", *options, *option, "--output", tmp_path / "r.json")
