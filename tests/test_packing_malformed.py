"""Malformed packed files on every way a file gets into a model; damaged at random: test_campaign.py."""

import json

import pytest
import timm
import torch
from exported import packed as pack

import burn_timm  # noqa: F401
from burn_timm import packing
from burn_timm.checkpoints import load_model
from burn_timm.cli import main
from burn_timm.errors import BurnError
from burn_timm.nn import binary_weight_names

NAME = "stages.1.0.conv1.weight"
BITS, SCALE, MARK = f"{NAME}_bits", f"{NAME}_scale", "burn_packed"
CONFIG = {"architecture": "test_reactnet", "num_classes": 10, "pretrained_cfg": {
    "num_classes": 10, "input_size": [3, 64, 64], "first_conv": "stem.conv", "classifier": "head.fc"}}


@pytest.fixture(scope="module")
def packed():
    torch.manual_seed(0)
    model = timm.create_model("test_reactnet", num_classes=10)
    assert NAME in binary_weight_names(model)
    return pack(model)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def change(tensors, **changes):
    """`tensors` with some of them changed, or left out where the change is None."""
    changed = {name: change(tensors.get(name)) if change else None for name, change in changes.items()}
    return {name: tensor for name, tensor in {**tensors, **changed}.items() if tensor is not None}


# What is wrong (name, change of each tensor), whether the checksum is made right, so that later checks are reached, and
# which tensor the message must name.
TENSORS = {
    "too few bits": ({BITS: lambda t: t[:, :-1]}, True, BITS),
    "another dtype": ({BITS: lambda t: t.view(torch.int8)}, True, BITS),
    "no scale": ({SCALE: None}, True, SCALE), "no bits": ({BITS: None}, True, BITS),
    "no weight": ({BITS: None, SCALE: None}, True, NAME),
    "no float": ({"stem.bn.running_var": None}, True, "stem.bn.running_var"),
    "twice": ({NAME: lambda t: torch.ones(16, 16, 3, 3)}, True, NAME),
    "surplus": ({"stages.9.strange": lambda t: torch.ones(1)}, True, "stages.9.strange"),
    "NaN": ({SCALE: lambda t: t * float("nan")}, True, SCALE), "negative": ({SCALE: lambda t: -t}, True, SCALE),
    "short scale": ({SCALE: lambda t: t[:-1]}, True, SCALE),
    "float of another shape": ({"stem.bn.weight": lambda t: torch.ones(3)}, True, "stem.bn.weight"),
    "version 2": ({MARK: lambda t: torch.cat([t[:1] + 1, t[1:]])}, False, MARK),
    "changed float": ({"stem.bn.weight": lambda t: t + 1}, False, MARK),
    "short mark": ({MARK: lambda t: t[:32]}, False, MARK), "no mark": ({MARK: None}, False, MARK),
}
FILES = ("truncated", "a pickle")


def ways(folder):
    """Every way into a model: what to call, and the error that it raises. timm fails first where a file is no
    safetensors file, with errors of its own."""
    path, timms = folder / "model.safetensors", Exception
    yield lambda: load_model("test_reactnet", path, num_classes=10), BurnError
    for classes in (10, 0):  # other classes than the file's make timm load with strict=False
        yield lambda n=classes: load_model(f"local-dir:{folder}", num_classes=n), BurnError
        yield lambda n=classes: timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=n), timms
    yield lambda: timm.create_model("test_reactnet", num_classes=10, checkpoint_path=path), timms


def test_the_whole_file_loads_on_every_way(packed, folder):
    """What the cases below share with a good file is not what makes them fail."""
    packing.save_packed(folder / "model.safetensors", packed)
    for create, _ in ways(folder):
        create()
    assert main(["unpack", str(folder), str(folder.parent / "floats")]) == 0


@pytest.mark.parametrize("case", [*TENSORS, *FILES])
def test_every_way_refuses_and_names_file_and_tensor(case, packed, folder, fails):
    path, tensor = folder / "model.safetensors", ""
    if case in TENSORS:
        changes, right, tensor = TENSORS[case]
        tensors = change(packed, **changes)
        if right:
            tensors[MARK] = packing.checksum_mark(tensors)
        packing.save_tensors(path, tensors, packing.METADATA)  # past our own writer, which would refuse
    elif case == "a pickle":
        torch.save(packed, path)
    else:
        packing.save_packed(path, packed)
        path.write_bytes(path.read_bytes()[:-1000])
    for create, kind in ways(folder):
        with pytest.raises(kind) as error:
            create()
        if kind is BurnError:
            assert str(path) in str(error.value) and "\n" not in str(error.value)
        assert case in FILES or tensor in str(error.value)
    line = fails("unpack", folder, folder.parent / "floats", "--model", "test_reactnet")
    assert str(folder) in line and tensor in line and not (folder.parent / "floats").exists()


def test_a_classifier_without_shape_is_refused(packed, folder):
    tensors = change(packed, **{"head.fc.weight": lambda tensor: tensor[0, 0]})
    tensors[MARK] = packing.checksum_mark(tensors)
    packing.save_tensors(folder / "model.safetensors", tensors, packing.METADATA)
    with pytest.raises(BurnError, match=r"model\.safetensors does not fit"):
        load_model(f"local-dir:{folder}", num_classes=None)


def test_weights_of_another_network_are_named(packed, folder):
    packing.save_packed(folder / "model.safetensors", packed)
    for other in ("reactnet_a_025", "resnet18"):
        with pytest.raises(BurnError, match=r"weights of test_reactnet, by its config\.json"):
            load_model(other, folder)


def test_a_config_of_other_channels_is_refused_and_the_users_own_wish_is_not(packed, folder):
    packing.save_packed(folder / "model.safetensors", packed)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "model_args": {"in_chans": 1}}))
    with pytest.raises(BurnError, match="is for images of 3 channels, but config.json says 1"):
        load_model(f"local-dir:{folder}")
    assert load_model(f"local-dir:{folder}", in_chans=1).in_chans == 1


def test_padding_bits_and_signs_without_size():
    bits, scale = packing.pack_weight(torch.ones(2, 5, 1, 1))
    assert bits.tolist() == [[31], [31]]
    bits[1, 0] |= 64
    with pytest.raises(packing.PackedError, match="^layer.weight_bits has padding bits"):
        packing.restore_weight(bits, scale, (2, 5, 1, 1), "layer.weight")
    bits, scale = packing.pack_weight(torch.zeros(2, 5, 1, 1))  # one form only, else packing again would change it
    bits[0, 0] = 0
    with pytest.raises(packing.PackedError, match="scale is 0"):
        packing.restore_weight(bits, scale, (2, 5, 1, 1), "layer.weight")
