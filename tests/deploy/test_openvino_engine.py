"""OpenVINO's 1-bit network against torch: each convolution exactly, whole networks by tolerance."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("openvino")

import openvino as ov
from openvino import opset13 as ops

from burn_timm.deploy import load
from burn_timm.deploy.export import export
from burn_timm.deploy.fold import fold
from burn_timm.deploy.openvino_engine import TESTED, binary_convolution, build, core, cpu_settings
from burn_timm.errors import BurnError
from deploy.networks import INPUTS, NETWORKS, cases_of, check_outputs, convolutions, images_of, lively

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("inputs", INPUTS)
def test_a_binary_convolution_is_exact(inputs, kernel):
    check_exact(cases_of(inputs, strides=(1, 2, 3)), kernel, seed=10 * inputs + kernel)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_binary_convolution_is_exact_in_images_of_every_width(kernel):
    """The kernels work in strips of several pixels, with other code at both ends."""
    widths = [*range(1, 41), 56, 75, 112]
    check_exact([(1, 16, 24, (4, width), stride) for width in widths for stride in (1, 2)], kernel, seed=0)


def check_exact(cases, kernel, seed):
    images, nodes, arrays, expected, buffers = [], [], [], [], []
    for case in convolutions(cases, kernel, seed):
        images.append(ops.parameter(list(case.x.shape), np.float32))
        nodes.append(binary_convolution(images[-1], case.threshold, case.positive, case.stride, kernel // 2, buffers))
        arrays.append(case.x)
        expected.append(case.expected)
    compiled = core().compile_model(ov.Model(nodes, images, "test"), "CPU", cpu_settings(1))
    for got, reference in zip(compiled(arrays).values(), expected, strict=True):
        np.testing.assert_array_equal(got.astype(np.float64), reference, strict=True)


def outputs_of(model, x):
    graph, buffers = build(fold(model), tuple(x.shape))
    results = core().compile_model(graph, "CPU", cpu_settings(1))(x.numpy()).items()
    return {next(iter(output.names)): torch.from_numpy(np.array(value)) for output, value in results}


@pytest.mark.parametrize(("name", "shape", "options"), NETWORKS)
def test_a_network_does_what_torch_does(name, shape, options, digits):
    model, images = lively(name, **options), images_of(digits, shape)
    check_outputs(outputs_of(model, images), model, images)


SIGNAL = """
import faulthandler, signal, sys
import burn_timm.deploy, burn_timm.deploy.openvino_engine
faulthandler.enable()  # gives this thread a stack for signals
signal.signal(signal.SIGUSR1, lambda *args: print("handled"))
first, second = (burn_timm.deploy.load(sys.argv[1], threads=1) for _ in range(2))
del first
del second
signal.raise_signal(signal.SIGUSR1)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "net"
    export(lively(), folder, "openvino")
    return folder


def test_all_models_share_a_core():
    """With a Core for each of them OpenVINO would leave a signal's stack unmapped, as the next test has it."""
    assert core() is core()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_after_two_models_have_come_and_gone(exported):
    """Else a segmentation fault."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SIGNAL, exported], env=environment, capture_output=True, text=True, check=False,
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_versions_and_processors_that_nobody_tested_and_kernels_that_do_not_exist_are_refused(exported, monkeypatch):
    with pytest.raises(BurnError, match="a binary 2x2 convolution .* only 1x1 and 3x3"):
        binary_convolution(ops.parameter([1, 8, 9, 9], np.float32), np.zeros(8), np.ones((8, 8, 2, 2), bool), 1, 1, [])
    (low, _), (high, _) = TESTED
    assert f'openvino = ["openvino>={low}.0,<{high}"]' in (ROOT / "pyproject.toml").read_text()
    for version in ("2025.4.1", "2027.0.0-1", "custom"):
        with monkeypatch.context() as patch, pytest.raises(BurnError, match=f"OpenVINO {version} is not tested"):
            patch.setattr(ov, "__version__", version)
            load(exported)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(BurnError, match="aarch64: OpenVINO has 1-bit kernels for x86 only.* --format c"):
        load(exported)
