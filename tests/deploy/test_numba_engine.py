"""The popcount kernels against torch: each convolution exactly, whole networks by tolerance, on any CPU."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from burn_timm.deploy.fold import Step, fold
from burn_timm.deploy.numba_engine import PopcountNetwork, _prepare
from burn_timm.kernels.kernels import compiled
from burn_timm.kernels.threads import use_threads
from deploy.networks import INPUTS, NETWORKS, check_outputs, convolutions, errors, images_of, lively, sizes_with


def counts(case, padding, parallel=False):
    """The sum that the kernels give, through a step which adds nothing to it: `[N, O, H', W']`."""
    outputs = len(case.positive)
    ones, zeros = np.ones(outputs, np.float32), np.zeros(outputs, np.float32)
    step = Step(case.threshold, case.positive, case.stride, padding, ones, zeros, ones, False, False, None)
    batch, _, height, width = case.x.shape
    ready = _prepare(step, batch, height, width)
    pack, kernel, _, _ = compiled(parallel)
    x = np.ascontiguousarray(case.x.transpose(0, 2, 3, 1))
    pack(x, case.threshold, ready.bits.view(np.uint16), padding)
    kernel(
        ready.bits, ready.weights, case.stride, ready.most, ready.row_class, ready.column_class, ones, zeros, ones,
        np.zeros_like(ready.out), False, ready.chunk, ready.out, ones, np.empty((0, 0, 0, 0), np.uint16), 0,
    )
    return ready.out.transpose(0, 3, 1, 2)


def check_exact(cases, kernel, seed):
    for case in convolutions(cases, kernel, seed):
        np.testing.assert_array_equal(counts(case, kernel // 2).astype(np.float64), case.expected, strict=True)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("inputs", INPUTS)
def test_a_binary_convolution_is_exact(inputs, kernel, stride):
    check_exact(sizes_with(inputs, stride), kernel, seed=1000 * inputs + 10 * kernel + stride)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_binary_convolution_is_exact_in_images_of_every_width(kernel):
    """The kernels work on four pixels at a time, in pieces of the image."""
    widths = [*range(1, 20), 56, 112]
    check_exact([(1, 16, 24, (4, width), stride) for width in widths for stride in (1, 2)], kernel, seed=0)
    check_exact([(2, 70, outputs, (9, 7), 1) for outputs in (8, 17, 31, 32, 40, 2049)], kernel, seed=1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("name", "shape", "options"), NETWORKS)
def test_a_network_does_what_torch_does(name, shape, options, threads, digits):
    model, images = lively(name, **options), images_of(digits, shape)
    got = PopcountNetwork(fold(model), shape, threads)(images.numpy())
    check_outputs({name: torch.from_numpy(array) for name, array in got.items()}, model, images)


def test_buffers_hold_nothing_of_the_last_images(digits):
    images = images_of(digits, (4, 3, 37, 50)).numpy()
    network = PopcountNetwork(fold(lively()), (2, 3, 37, 50), 1)
    first = network(images[:2])
    kept = {name: array.copy() for name, array in first.items()}
    network(images[2:])
    again = network(images[:2])
    for name, array in kept.items():
        np.testing.assert_array_equal(first[name], array)
        np.testing.assert_array_equal(again[name], array)


def test_networks_on_several_threads_at_once(digits):
    """numba's thread pool is one for the process: calls wait for each other, and each keeps its number of threads."""
    images = images_of(digits, (8, 3, 64, 64)).numpy()
    networks = [PopcountNetwork(fold(lively(seed=seed)), (1, 3, 64, 64), 1 + seed % 2) for seed in range(4)]
    expected = [network(images[k : k + 1])["logits"] for network in networks for k in range(8)]
    with ThreadPoolExecutor(4) as pool:
        got = pool.map(lambda case: case[0](images[case[1] : case[1] + 1])["logits"],
                       [(network, k) for network in networks for k in range(8)])
        assert all(map(np.array_equal, got, expected))


OTHER_CPU = """
import sys, numpy as np
from burn_timm.deploy import load
np.save(sys.argv[2], load(sys.argv[1], threads=2)(np.load(sys.argv[3])))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("cpu", "features"), [("generic", ""), ("haswell", "+avx2,+fma,+popcnt,+sse4.2,+bmi,+bmi2")])
def test_a_cpu_without_wide_vectors(cpu, features, digits, tmp_path):
    """LLVM makes other instructions of the same vectors: SSE2 alone, or AVX2. NEON is one more of the kind."""
    from burn_timm.deploy.export import export

    model, images = lively(), images_of(digits, (2, 3, 64, 64))
    export(model, tmp_path / "net", "numba", 64, 2)
    np.save(tmp_path / "x.npy", images.numpy())
    environment = {
        **os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "NUMBA_CACHE_DIR": str(tmp_path),
        "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features,
    }
    subprocess.run(
        [sys.executable, "-c", OTHER_CPU, tmp_path / "net", tmp_path / "y.npy", tmp_path / "x.npy"],
        env=environment, check=True,
    )
    with torch.no_grad():
        assert errors(torch.from_numpy(np.load(tmp_path / "y.npy")), model(images)).median() < 2e-3


def test_serial_and_parallel_kernels_have_caches_of_their_own():
    names = [function.py_func.__qualname__ for parallel in (False, True) for function in compiled(parallel)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_binary_convolution_is_exact_on_two_threads(kernel):
    use_threads(2)
    for case in convolutions(sizes_with(80, 1), kernel, seed=5):
        np.testing.assert_array_equal(counts(case, kernel // 2, parallel=True).astype(np.float64), case.expected)
