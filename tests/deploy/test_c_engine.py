"""burn.c against torch: each convolution exactly, whole networks by tolerance, with every set of instructions."""

import multiprocessing
import os
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from burn_timm.deploy import load
from burn_timm.deploy.c_engine import _checksum
from burn_timm.deploy.export import export
from burn_timm.deploy.fold import FoldedNetwork, Step, fold
from burn_timm.errors import BurnError
from burn_timm.kernels import native
from burn_timm.kernels.burn import Network
from burn_timm.nn.sign_conv import why_not
from deploy.networks import (
    INPUTS,
    NETWORKS,
    Convolution,
    cases_of,
    check_outputs,
    content,
    convolutions,
    counting,
    errors,
    images_of,
    instruction_sets,
    lively,
)

HERE = Path(__file__).parent


def opened(network, shape, threads=1):
    return Network(content(network, shape), threads, library=native.load())


def counts(case):
    """What each set of instructions gives, by its name."""
    network, images = counting(case)
    data = content(network, images.shape)
    return {name: Network(data, 1 + number % 2, library=native.load())(images, "feature_map")
            for number, name in enumerate(instruction_sets())}


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("inputs", INPUTS)
def test_a_binary_convolution_is_exact(inputs, kernel):
    cases = cases_of(inputs, strides=(1, 2))
    if inputs == INPUTS[3]:  # kernels work on a few pixels at a time, in pieces of the image, and on blocks of outputs
        cases += [(1, 16, 24, (4, width), stride) for width in (*range(1, 20), 56, 112) for stride in (1, 2)]
        cases += [(2, 70, outputs, (9, 7), 1) for outputs in (8, 17, 31, 32, 40, 2049)]
    for case in convolutions(cases, kernel, seed=10 * inputs + kernel):
        for name, got in counts(case).items():
            np.testing.assert_array_equal(got.astype(np.float64), case.expected, name, strict=True)


def test_the_largest_sum_is_exact_and_a_larger_one_is_refused():
    """Every bit differs, 61,952 of them in the middle; kernels sum in 16 bits."""
    def summed(inputs):
        negative, x = np.zeros((16, inputs, 11, 11), bool), np.ones((1, inputs, 11, 11), np.float32)
        return counts(Convolution(x, np.zeros(inputs, np.float32), negative, 1, None))

    rows = np.array([6, 7, 8, 9, 10, 11, 10, 9, 8, 7, 6])
    for name, got in summed(512).items():
        np.testing.assert_array_equal(got[0], np.broadcast_to(-512 * np.outer(rows, rows), (16, 11, 11)), name)
    with pytest.raises(BurnError, match="a binary 11x11 convolution of 513 channels"):
        summed(513)


@pytest.mark.parametrize(("name", "shape", "options"), NETWORKS)
def test_a_network_does_what_torch_does(name, shape, options, digits):
    model, images = lively(name, **options), images_of(digits, shape)
    data = content(fold(model), shape)
    for number, _ in enumerate(instruction_sets()):
        network = Network(data, 1 + number, library=native.load())
        got = {output: torch.from_numpy(network(images.numpy(), output)) for output in network.outputs}
        check_outputs(got, model, images)


def test_another_size_without_a_new_export(digits):
    model = lively(num_classes=0)
    network = opened(fold(model), (1, 3, 32, 32))
    network.resize(48, 40)
    images = images_of(digits, (2, 3, 48, 40))
    with torch.no_grad():
        assert errors(torch.from_numpy(network(images.numpy(), "features")), model(images)).median() < 1e-4
    with pytest.raises(BurnError, match="images of 0 x 40"):
        network.resize(0, 40)
    network(images.numpy(), "features")  # the size stays


def _in_child(network, images, queue):
    queue.put(network(images, "feature_map"))


def test_results_depend_neither_on_threads_nor_on_the_process_nor_on_what_ran_before(digits):
    images = images_of(digits, (4, 3, 37, 50)).numpy()
    alone, together, other = (opened(fold(lively(seed=seed)), images.shape, n) for seed, n in ((0, 1), (0, 2), (1, 2)))
    expected = alone(images, "feature_map")
    other(images[::-1].copy(), "feature_map")
    with ThreadPoolExecutor(4) as pool:  # two networks, each on several threads at once
        got = list(pool.map(lambda network: network(images, "feature_map"), [together, other, together, alone] * 3))
    for place in (0, 2, 3, 8):
        np.testing.assert_array_equal(got[place], expected)
    assert not np.array_equal(got[1], expected)
    if hasattr(os, "fork"):  # the child has none of the threads
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=_in_child, args=(together, images, queue))
        child.start()
        np.testing.assert_array_equal(queue.get(timeout=60), expected)
        child.join(60)
        assert child.exitcode == 0
    np.testing.assert_array_equal(together(images, "feature_map"), expected)


def test_images_of_another_kind_and_other_outputs_are_refused():
    network = opened(fold(lively(num_classes=0)), (1, 3, 64, 64))
    whole = np.zeros((1, 3, 64, 128), np.float32)
    for images in (whole, whole[..., :64].astype(np.float64), whole[..., ::2]):
        with pytest.raises(BurnError, match="contiguous float32"):
            network(images, "features")
    with pytest.raises(BurnError, match="no output logits: this network has feature_map, features"):
        network(np.zeros((1, 3, 64, 64), np.float32), "logits")


def test_another_thread_may_change_the_size_before_a_call_runs():
    """Before, the call had taken the memory of its result for the old size already."""
    network, images = opened(fold(lively()), (1, 3, 32, 32)), np.zeros((1, 3, 32, 32), np.float32)
    with ThreadPoolExecutor(1) as pool:
        with network._alone:
            call = pool.submit(network, images, "feature_map")
            time.sleep(0.3)
            assert native.load().burn_resize(network._network, 64, 64) == 0
            network._read_shape()
        with pytest.raises(BurnError, match="3, 64, 64"):
            call.result(60)


@pytest.mark.parametrize("name", ["test_reactnet", "reactnet_18"])
def test_a_pixel_that_is_nan_is_seen(name, digits):
    """The second network has a max-pool in its stem, too."""
    model, images = lively(name, num_classes=0, global_pool="max"), images_of(digits, (2, 3, 64, 64))
    images[0, 0, 20, 20] = np.nan
    with torch.no_grad():
        expected = model(images).isnan().numpy()
    assert expected[0].any() and not expected[1].any()
    data = content(fold(model), images.shape)
    for target in instruction_sets():
        got = Network(data, 1, library=native.load())(images.numpy(), "features")
        np.testing.assert_array_equal(np.isnan(got), expected, target)


def test_sizes_that_burn_c_refuses_are_not_written():
    network = fold(lively())
    many = replace(network, classifier=(network.classifier[0], np.zeros(2**20 + 1)))
    for wrong, size, message in (
        (network, (3, 64, 9000), "9,000 pixels a side: --format c takes at most 8,192"),
        (network, (1025, 64, 64), "1,025 channels of the images"), (many, (3, 64, 64), "1,048,577 classes"),
        (replace(network, pool_type=""), (3, 64, 64), "a classifier without pooling"),
        (replace(network, steps=[replace(network.steps[0], stride=3)]), (3, 64, 64), "3 pixels of stride"),
    ):
        with pytest.raises(BurnError, match=message):
            content(wrong, (1, *size))


def test_more_memory_than_two_gibibytes_is_refused():
    """The map of 600 x 600 pixels of 2048 channels would take 3."""
    ones, zeros = np.ones(2048, np.float32), np.zeros(2048, np.float32)
    step = Step(zeros, np.ones((2048, 2048, 1, 1), bool), 1, 0, ones, zeros, ones, False, False, None)
    stem = np.ones((2048, 1, 1, 1), np.float32)
    network = opened(FoldedNetwork(stem, zeros, False, [step], zeros, "", None), (1, 1, 2, 2))
    with pytest.raises(BurnError, match="images of 1200 x 1200: not enough memory"):
        network.resize(1200, 1200)
    assert network(np.zeros((1, 1, 2, 2), np.float32), "feature_map").shape == (1, 2048, 1, 1)


def test_a_folder_is_no_file_and_threads_have_an_end(tmp_path):
    with pytest.raises(BurnError, match="cannot be opened or read"):
        Network(tmp_path, library=native.load())
    export(lively(num_classes=0), tmp_path / "net", "c", img_size=32)
    assert load(tmp_path / "net", threads=1025).num_classes == 0


@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_input_channels_are_exported(channels, tmp_path):
    model = lively(in_chans=channels)
    config = export(model, tmp_path / "net", "c", img_size=32)
    assert len(config["pretrained_cfg"]["mean"]) == channels
    images = torch.randn(1, channels, 32, 32)
    with torch.no_grad():
        assert errors(load(tmp_path / "net")(images), model(images)) < 2e-3


def test_a_window_larger_than_its_map_is_refused():
    """C's division of -1 by a stride of 2 gives 0, so that such a step seemed to have one output."""
    ones, zeros = np.ones(64, np.float32), np.zeros(64, np.float32)
    step = Step(zeros, np.ones((64, 64, 2, 2), bool), 2, 0, ones, zeros, ones, True, False, None)
    network = FoldedNetwork(np.zeros((64, 3, 3, 3), np.float32), zeros, False, [step], zeros, "", None)
    with pytest.raises(BurnError, match="sizes that cannot be"):
        opened(network, (1, 3, 2, 2))


@pytest.mark.parametrize(("change", "word"), [
    (lambda data: b"", "no network.bin"),
    (lambda data: data[:200], "damaged"),
    (lambda data: data[:-1], "damaged"),
    (lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:], "damaged"),
    (lambda data: b"X" + data[1:], "no network.bin"),
    (lambda data: resummed(data[:16] + struct.pack("<I", 2) + data[20:]), "version"),
    (lambda data: resummed(data[:20] + struct.pack("<I", 2**31) + data[24:]), "sizes that cannot be"),
    (lambda data: resummed(data + bytes(8)), "sizes that cannot be"),
])
def test_a_damaged_file_is_one_line(change, word):
    data = content(fold(lively()), (1, 3, 64, 64))
    with pytest.raises(BurnError, match=word) as told:
        Network(change(data), 1, "net/network.bin", native.load())
    assert "\n" not in str(told.value) and str(told.value).startswith("net/network.bin: ")


def resummed(data):
    return data[:8] + struct.pack("<Q", _checksum(data[16:])) + data[16:]


def test_a_missing_or_broken_compiler_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(native.importlib.util, "find_spec", lambda name: None)
    native.load.cache_clear()
    try:
        with pytest.raises(BurnError, match=r"no C compiler.*burn-timm\[c\]"):
            native.load()
        assert "no C compiler" in why_not(torch.device("cpu"))  # what --count-bits says
        monkeypatch.setenv("CC", "false")
        with pytest.raises(BurnError, match="the C compiler failed: false"):
            native.load()
        assert list((tmp_path / "burn_timm").iterdir()) == []
    finally:
        native.load.cache_clear()
