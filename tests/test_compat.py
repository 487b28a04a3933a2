"""Private or version-dependent corners of timm, torch and accelerate still are as `burn_timm.compat` expects them.

When a test fails after an upgrade, its docstring says what to do.
"""

import argparse
import io
import json
import os
import re
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_dataset

from burn_timm import compat

# timm: models and their registry ------------------------------------------------------------------------------------


def test_create_with_weights_is_strict_renames_and_forgets_the_weights():
    """If it fails: timm no longer takes a state dict from pretrained_cfg_overlay. Create the model without weights,
    apply the filter function of its module, and call load_state_dict."""
    weights = timm.create_model("test_resnet", num_classes=5).state_dict()
    model = compat.create_with_weights("test_resnet", weights, 5)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert model.pretrained_cfg["state_dict"] is None and model.num_classes == 5
    for classes, changes in ((5, {"conv1.0.strange": torch.ones(1)}), (0, {})):
        with pytest.raises(RuntimeError, match="Unexpected key"):
            compat.create_with_weights("test_resnet", {**weights, **changes}, classes)


def test_save_model_config(tmp_path):
    """If it fails: timm moved `save_config_for_hf`; see by what `timm.models.save_for_hf` writes config.json."""
    model = timm.create_model("test_resnet", num_classes=5)
    compat.save_model_config(model, tmp_path / "config.json", {"num_classes": 5}, {"input_size": (3, 32, 32)})
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "test_resnet" and config["num_classes"] == 5
    assert "num_classes" not in config["model_args"]  # where transformers would hand it to the model twice
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]


def test_feature_take_indices():
    """If timm moves it: write it into compat.py (an int counts from the end, negative numbers too; None is all)."""
    assert compat.feature_take_indices(4, [1, -1]) == ([1, 3], 3)
    assert compat.feature_take_indices(4, 2) == ([2, 3], 3)
    assert compat.feature_take_indices(4, None) == ([0, 1, 2, 3], 3)


@pytest.mark.parametrize("name, stages", [("test_reactnet", 4), ("resnet20_cifar", 3)])
@pytest.mark.parametrize("out_indices", [(0, 7), (-9,), 7])
def test_stages_that_are_not_there_are_one_line(name, stages, out_indices):
    """If it fails: timm's feature_take_indices raises something else than AssertionError for a wrong index."""
    line = f"out_indices {out_indices}: {name} has {stages} stages, numbered 0 to {stages - 1}"
    with pytest.raises(ValueError, match=re.escape(line)):
        timm.create_model(name, features_only=True, out_indices=out_indices)
    assert len(timm.create_model(name, features_only=True, out_indices=(1, -1)).feature_info.channels()) == 2


def test_binary_functions_are_leaves_of_a_trace():
    """If `register_notrace_function` leaves timm.models: `torch.fx.wrap` alone does for tracers of torch."""
    names = {function.__name__ for function in timm.models.get_notrace_functions()}
    assert {"binary_sign", "binary_weight"} <= names


# timm: dataset readers ----------------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path):
    """timm's dataset of three shards with four samples each; sample 5 has no class."""
    pytest.importorskip("webdataset")
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    for shard in range(3):
        with tarfile.open(tmp_path / f"s-{shard}.tar", "w") as tar:
            for number in range(4 * shard, 4 * shard + 4):
                for ending, data in (("png", stream.getvalue()), ("cls", b"7"))[: 1 if number == 5 else 2]:
                    info = tarfile.TarInfo(f"{number:02d}.{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return create_dataset("wds/x", root=str(tmp_path), split="s-{0..2}.tar|12", is_training=False)


def test_wds_split(shards):
    """If it fails: find where timm's ReaderWds keeps the parsed split now (it was `split_info`)."""
    info = compat.wds_split(shards)
    assert info.num_samples == 12 and list(info.filenames) == ["s-0.tar", "s-1.tar", "s-2.tar"] and not info.alt_label


def test_wds_decoder_replaces_timms_own(shards):
    """If it fails: timm's pipeline no longer ends in its decoder and a renaming, or is not built by `_lazy_init`. Look
    at ReaderWds and put our function where timm decodes a sample; without it samples without a class are lost."""
    compat.wds_decoder(shards, lambda sample: {"image": sample["png"], "target": sample.get("cls")})
    found = list(shards)
    assert len(found) == 12 and all(image.startswith(b"\x89PNG") for image, _ in found)
    assert [target for _, target in found][4:7] == [b"7", None, b"7"]


def test_wds_share(shards):
    """If it fails: ReaderWds has other names for rank and number of processes (`dist_rank`, `dist_num_replicas`)."""
    compat.wds_share(shards, 1, 3)
    compat.wds_decoder(shards, lambda sample: {"image": sample["png"], "target": int(sample["__key__"])})
    assert {target for _, target in shards} == {4, 5, 6, 7}


def test_wds_own_epoch(shards):
    """If it fails: ReaderWds counts epochs elsewhere (it was `epoch_count`, in memory that processes share)."""
    before = shards.reader.epoch_count
    compat.wds_own_epoch(shards)
    shards.set_epoch(3)
    assert shards.reader.epoch_count.value == 3 and before.value == 0


def test_torchvision_targets():
    """If it fails: a dataset of torchvision keeps the classes of its images under another name."""
    class Known:
        targets = torch.tensor([3, 1])

    class Rows:  # QMNIST
        targets = torch.tensor([[3, 0], [1, 0]])

    class Index:  # INaturalist
        index = [(3, "a.jpg"), (1, "b.jpg")]

    for dataset in (Known, Rows, Index):
        np.testing.assert_array_equal(compat.torchvision_targets(dataset), [3, 1])


# torch: optimisers and operators ------------------------------------------------------------------------------------


def test_convolution_backward():
    """If ATen's operator changes: call `torch.nn.grad.conv2d_input` and `conv2d_weight`, one after the other."""
    x = torch.randn(2, 3, 5, 5, requires_grad=True)
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    out = F.conv2d(x, weight, None, 2, 1)
    grad = torch.randn_like(out)
    for got, expected in zip(
        compat.convolution_backward(grad, x, weight, 2, 1), torch.autograd.grad(out, (x, weight), grad), strict=True,
    ):
        torch.testing.assert_close(got, expected)


# torch: reading and exporting files ---------------------------------------------------------------------------------


class Settings(dict):
    """A mapping of a class that torch does not know."""


class Stranger:
    """An object of a class that torch does not know."""

    def __init__(self):
        self.value = 1


@pytest.mark.parametrize("zipped", [True, False])
def test_load_pickle_puts_placeholders_for_foreign_classes(tmp_path, zipped):
    """If it fails: torch words its refusals otherwise. Correct the two patterns in compat.py, which find the class that
    torch.load(weights_only=True) refused in the text of its UnpicklingError."""
    content = {
        "weights": torch.ones(2), "args": argparse.Namespace(lr=1), "best": np.float64(0.5), "array": np.ones(2),
        "settings": Settings(a=1), "other": Stranger(),
    }
    torch.save(content, tmp_path / "file.pth", _use_new_zipfile_serialization=zipped)
    read = compat.load_pickle(tmp_path / "file.pth")
    assert torch.equal(read["weights"], content["weights"]) and read["args"].lr == 1
    assert not isinstance(read["other"], Stranger) and not isinstance(read["best"], float)


def test_export_onnx(tmp_path):
    """If torch drops `dynamo=False`: use its other exporter, which needs onnxscript (in the extra `onnx`, then)."""
    onnx = pytest.importorskip("onnx")
    compat.export_onnx(torch.nn.Conv2d(3, 4, 3).eval(), tmp_path / "m.onnx", torch.zeros(1, 3, 8, 8), ["y"], 17)
    written = onnx.load(tmp_path / "m.onnx")
    assert [entry.version for entry in written.opset_import] == [17]
    assert [value.name for value in (*written.graph.input, *written.graph.output)] == ["images", "y"]


# accelerate ---------------------------------------------------------------------------------------------------------


def test_accelerates_variable_for_the_cpu(monkeypatch):
    """If `accelerate.utils.parse_flag_from_env` is gone: compare the variable with 1, true, yes, on, y, t."""
    for value, expected in (("true", True), ("1", True), ("false", False), (None, False)):
        monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
        if value is not None:
            monkeypatch.setenv("ACCELERATE_USE_CPU", value)
        assert compat.use_cpu_is_set() is expected


@pytest.mark.parametrize("start", [
    ["/usr/bin/python", "-m", "accelerate.commands.launch"], ["/usr/bin/python", "/venv/bin/accelerate", "launch"],
    ["/venv/bin/accelerate-launch"],
])
def test_launcher_arguments(start, monkeypatch):
    """If it fails: `accelerate.commands.launch.launch_command_parser` has moved. Without it,
    --gradient_accumulation_steps of `accelerate launch` is ignored. (That the launcher is the parent of the script's
    process is tested in tests/training/test_launch.py.)"""
    parent = SimpleNamespace(cmdline=lambda: [*start, "--cpu", "--gradient-accumulation-steps=3", "script.py", "--cpu"])
    monkeypatch.setattr("psutil.Process", {os.getppid(): parent}.get)
    told = compat.launcher_arguments()
    assert told["gradient_accumulation_steps"] == 3 and told["gradient_clipping"] is None
    parent.cmdline = lambda: ["python", "-m", "pytest", "accelerate"]
    assert compat.launcher_arguments() == {}
