"""deploy.load and the object it gives: timm's face, and one clear line for everything that is wrong."""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import burn_timm.deploy
from burn_timm.deploy import engine
from burn_timm.errors import BurnError

pytest.importorskip("openvino")

import openvino

from burn_timm.deploy.export import export
from deploy.networks import errors, lively


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_it(tmp_path_factory, "openvino")


@pytest.fixture(scope="module", params=["openvino", "numba"])
def exported_to_each(request, tmp_path_factory):
    pytest.importorskip(request.param)
    return export_it(tmp_path_factory, request.param)


def export_it(tmp_path_factory, format):
    model = lively(num_classes=7)
    model.pretrained_cfg = {**model.pretrained_cfg, "crop_pct": 0.9, "mean": (0.1, 0.2, 0.3), "input_size": (3, 64, 64),
                            "label_names": list("abcdefg")}
    folder = tmp_path_factory.mktemp("exported") / "net"
    export(model, folder, format, batch_size=2)
    return model, folder


@pytest.fixture
def images(digits):
    return torch.nn.functional.interpolate(digits[0][:2].float() / 255 - 0.5, (64, 64))


@pytest.mark.parametrize("call", ["__call__", "features", "forward_features"])
def test_the_face_of_timm(exported_to_each, images, call):
    model, folder = exported_to_each
    loaded = burn_timm.deploy.load(folder, threads=1)
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


def test_a_result_is_not_overwritten_by_the_next_call(exported_to_each, images):
    loaded = burn_timm.deploy.load(exported_to_each[1])
    first = loaded(images)
    kept = first.clone()
    loaded(torch.zeros_like(images))
    assert torch.equal(first, kept)


def test_threads_share_a_model(exported_to_each, images):
    from concurrent.futures import ThreadPoolExecutor

    loaded = burn_timm.deploy.load(exported_to_each[1], threads=1)
    inputs = [images * scale for scale in (1, 0.5, -1, 2)] * 8
    expected = [loaded(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        assert all(map(torch.equal, pool.map(loaded, inputs), expected))


SIGNAL = """
import faulthandler, signal, sys
import burn_timm.deploy, burn_timm.deploy.engines
faulthandler.enable()  # gives this thread a stack for signals
signal.signal(signal.SIGUSR1, lambda *args: print("handled"))
first, second = (burn_timm.deploy.load(sys.argv[1], threads=1) for _ in range(2))
del first
del second
signal.raise_signal(signal.SIGUSR1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_after_two_models_have_come_and_gone(exported):
    """With a Core for each of them OpenVINO would leave the signal's stack unmapped: a segmentation fault."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", SIGNAL, exported[1]], env=environment, capture_output=True, text=True, check=False,
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_it_knows_what_a_user_needs(exported_to_each):
    model, folder = exported_to_each
    loaded = burn_timm.deploy.load(folder)
    assert (loaded.architecture, loaded.batch_size, loaded.input_size) == ("test_reactnet", 2, (3, 64, 64))
    assert (loaded.num_classes, loaded.num_features, loaded.label_names) == (7, 128, list("abcdefg"))
    assert timm.data.resolve_model_data_config(loaded) == timm.data.resolve_model_data_config(model)
    config = json.loads((folder / "config.json").read_text())
    assert config["versions"].get("openvino", openvino.__version__) == openvino.__version__


@pytest.mark.parametrize(("x", "message"), [
    (torch.zeros(1, 3, 64, 64), r"images are \[1, 3, 64, 64\], but .* exported for \[2, 3, 64, 64\]"),
    (np.zeros((2, 3, 32, 64), np.float32), r"images are \[2, 3, 32, 64\], but"),
    (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), "expected floats, normalised"),
    ([0.0], "expected a torch tensor or numpy array"),
])
def test_wrong_images(exported_to_each, x, message):
    with pytest.raises(BurnError, match=message):
        burn_timm.deploy.load(exported_to_each[1])(x)


@pytest.mark.parametrize("format", ["openvino", "numba"])
def test_without_pooling_there_are_no_pooled_features(tmp_path, images, format):
    model = lively(num_classes=0, global_pool="")
    export(model, tmp_path / "net", format, batch_size=2)
    loaded = burn_timm.deploy.load(tmp_path / "net")
    assert loaded(images).shape == (2, 128, 4, 4)
    with pytest.raises(BurnError, match="without pooling: use forward_features"):
        loaded.features(images)


def damage(name, change):
    def apply(folder):
        change(folder / name)

    return apply


def edit(**changes):
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(("change", "message"), [
    (damage("model.bin", lambda path: path.write_bytes(path.read_bytes()[:-10])), "model.bin: truncated, damaged"),
    (damage("model.xml", lambda path: path.write_text("<net/>")), "model.xml: truncated, damaged"),
    (damage("model.bin", lambda path: path.unlink()), "model.bin: cannot be read"),
    (damage("config.json", lambda path: path.unlink()), "config.json: cannot be read"),
    (damage("config.json", lambda path: path.write_text("{")), "config.json: cannot be read"),
    (damage("config.json", edit(format="timm")), "no 1-bit network; write one with: burn-timm export"),
    (damage("config.json", edit(format_version=9)), "format_version 9, but this burn_timm reads only 1"),
])
def test_a_damaged_folder(exported, tmp_path, change, message):
    shutil.copytree(exported[1], tmp_path / "net")
    change(tmp_path / "net")
    with pytest.raises(BurnError, match=message) as caught:
        burn_timm.deploy.load(tmp_path / "net")
    assert "\n" not in str(caught.value) and str(tmp_path / "net") in str(caught.value)


@pytest.mark.parametrize("change", [lambda data: data[:-10], lambda data: data[:-1] + b"x"])
def test_a_damaged_folded_network(tmp_path, change):
    export(lively(), tmp_path / "net", "numba")
    file = tmp_path / "net" / "network.safetensors"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(BurnError, match="network.safetensors: truncated, damaged or from another export"):
        burn_timm.deploy.load(tmp_path / "net")


def test_without_numba(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    export(lively(), tmp_path / "net", "numba")  # writing needs no numba
    with pytest.raises(BurnError, match=r'numba is missing .*: pip install "burn-timm\[numba\]"'):
        burn_timm.deploy.load(tmp_path / "net")


@pytest.mark.parametrize("version", ["2025.4.1", "2027.0.0-1", "custom"])
def test_a_version_that_nobody_tested(exported, monkeypatch, version):
    monkeypatch.setattr(openvino, "__version__", version)
    with pytest.raises(BurnError, match=rf"OpenVINO {version} is not tested.* >=2026.0,<2027.0: pip install"):
        burn_timm.deploy.load(exported[1])


def test_the_range_is_that_of_the_extra():
    (low, _), (high, _) = engine.TESTED
    assert f'openvino = ["openvino>={low}.0,<{high}"]' in (Path(__file__).parents[2] / "pyproject.toml").read_text()


def test_without_openvino(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BurnError, match=r'OpenVINO is missing .*: pip install "burn-timm\[openvino\]"'):
        burn_timm.deploy.load(exported[1])


def test_other_processors_are_refused(exported, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(BurnError, match="aarch64: OpenVINO has 1-bit kernels for x86 only.* --format numba"):
        burn_timm.deploy.load(exported[1])


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2"])
def test_threads_must_be_a_number(exported, threads):
    with pytest.raises(BurnError, match="threads must be a whole number of at least 1"):
        burn_timm.deploy.load(exported[1], threads=threads)
