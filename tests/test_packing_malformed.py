"""Malformed packed files, by hand and by fuzzing, on every way a file gets into a model."""

import json
import random

import pytest
import timm
import torch

import burn_timm  # noqa: F401
from burn_timm import packing
from burn_timm.checkpoints import load_model, read_state_dict
from burn_timm.cli import main
from burn_timm.errors import BurnError
from burn_timm.nn import binary_weight_names

NAME = "stages.1.0.conv1.weight"
CONFIG = {
    "architecture": "test_reactnet", "num_classes": 10,
    "pretrained_cfg": {
        "num_classes": 10, "input_size": [3, 64, 64], "first_conv": "stem.conv", "classifier": "head.fc",
    },
}


@pytest.fixture(scope="module")
def packed():
    torch.manual_seed(0)
    model = timm.create_model("test_reactnet", num_classes=10)
    assert NAME in binary_weight_names(model)
    return packing.pack_state_dict(model.state_dict(), binary_weight_names(model))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def truncated(tensors, path):
    write(tensors, path)
    path.write_bytes(path.read_bytes()[:-1000])


def truncated_header(tensors, path):
    write(tensors, path)
    path.write_bytes(path.read_bytes()[:1000])


def empty(tensors, path):
    path.write_bytes(b"")


def wrong_bit_count(tensors, path):
    tensors[f"{NAME}_bits"] = tensors[f"{NAME}_bits"][:, :-1]
    write(tensors, path, mark=True)


def wrong_bits_dtype(tensors, path):
    tensors[f"{NAME}_bits"] = tensors[f"{NAME}_bits"].view(torch.int8)
    write(tensors, path, mark=True)


def too_many_bits(tensors, path):
    tensors[f"{NAME}_bits"] = torch.cat([tensors[f"{NAME}_bits"], torch.ones(16, 1, dtype=torch.uint8)], 1)
    write(tensors, path, mark=True)


def missing_scale(tensors, path):
    del tensors[f"{NAME}_scale"]
    write(tensors, path, mark=True)


def missing_bits(tensors, path):
    del tensors[f"{NAME}_bits"]
    write(tensors, path, mark=True)


def missing_weight(tensors, path):
    del tensors[f"{NAME}_bits"], tensors[f"{NAME}_scale"]
    write(tensors, path, mark=True)


def missing_float(tensors, path):
    del tensors["stem.bn.running_var"]
    write(tensors, path, mark=True)


def twice(tensors, path):
    tensors[NAME] = torch.ones(16, 16, 3, 3)
    write(tensors, path, mark=True)


def unknown_tensor(tensors, path):
    tensors["stages.9.strange"] = torch.ones(1)
    write(tensors, path, mark=True)


def nan_scale(tensors, path):
    tensors[f"{NAME}_scale"] = tensors[f"{NAME}_scale"] * float("nan")
    write(tensors, path, mark=True)


def negative_scale(tensors, path):
    tensors[f"{NAME}_scale"] = -tensors[f"{NAME}_scale"]
    write(tensors, path, mark=True)


def wrong_scale_shape(tensors, path):
    tensors[f"{NAME}_scale"] = tensors[f"{NAME}_scale"][:-1]
    write(tensors, path, mark=True)


def wrong_float_shape(tensors, path):
    tensors["stem.bn.weight"] = torch.ones(3)
    write(tensors, path, mark=True)


def unknown_version(tensors, path):
    tensors["burn_packed"][0] = 2
    write(tensors, path)


def wrong_checksum(tensors, path):
    tensors["burn_packed"][5] ^= 1
    write(tensors, path)


def changed_float(tensors, path):
    tensors["stem.bn.weight"][0] += 1
    write(tensors, path)


def short_mark(tensors, path):
    tensors["burn_packed"] = tensors["burn_packed"][:32]
    write(tensors, path)


def no_mark(tensors, path):
    del tensors["burn_packed"]
    write(tensors, path)


def pickled(tensors, path):
    torch.save(tensors, path)


def write(tensors, path, mark=False):
    """Past our own writer, which would refuse; `mark` makes the checksum right, so that later checks are reached."""
    if mark:
        tensors["burn_packed"] = packing.checksum_mark(tensors)
    packing.save_tensors(path, tensors, packing.METADATA)


# What is wrong, and which tensor the message must name (None: the file has none to name).
CASES = [
    (truncated, "weight"), (truncated_header, None), (empty, None), (pickled, None),
    (wrong_bit_count, f"{NAME}_bits"), (wrong_bits_dtype, f"{NAME}_bits"), (too_many_bits, f"{NAME}_bits"),
    (missing_scale, f"{NAME}_scale"), (missing_bits, f"{NAME}_bits"), (missing_weight, NAME),
    (missing_float, "stem.bn.running_var"), (twice, NAME), (unknown_tensor, "stages.9.strange"),
    (nan_scale, f"{NAME}_scale"), (negative_scale, f"{NAME}_scale"), (wrong_scale_shape, f"{NAME}_scale"),
    (wrong_float_shape, "stem.bn.weight"), (unknown_version, "burn_packed"), (wrong_checksum, "burn_packed"),
    (changed_float, "burn_packed"), (short_mark, "burn_packed"), (no_mark, "burn_packed"),
]
by_case = pytest.mark.parametrize(("damage", "tensor"), CASES, ids=[damage.__name__ for damage, _ in CASES])


def damaged(packed, damage, folder):
    path = folder / "model.safetensors"
    damage({name: tensor.clone() for name, tensor in packed.items()}, path)
    return path


def test_the_whole_file_loads_on_every_way(packed, folder, capsys):
    """What the cases below share with a good file is not what makes them fail."""
    path = damaged(packed, write, folder)
    load_model("test_reactnet", path, num_classes=10)
    timm.create_model("test_reactnet", num_classes=10, checkpoint_path=path)
    timm.create_model(f"local-dir:{folder}", pretrained=True)
    timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3)
    assert main(["unpack", str(path), str(folder / "floats.safetensors")]) == 0


@by_case
def test_our_loader_names_file_and_tensor(damage, tensor, packed, folder):
    path = damaged(packed, damage, folder)
    with pytest.raises(BurnError) as error:
        load_model("test_reactnet", path, num_classes=10)
    assert str(path) in str(error.value) and (tensor or "") in str(error.value)
    assert "\n" not in str(error.value)


@by_case
def test_timm_checkpoint_path_raises(damage, tensor, packed, folder):
    path = damaged(packed, damage, folder)
    with pytest.raises(Exception) as error:
        timm.create_model("test_reactnet", num_classes=10, checkpoint_path=path)
    if damage not in (truncated, truncated_header, empty, pickled):  # timm fails before we see the file
        assert tensor in str(error.value)


@by_case
@pytest.mark.parametrize("num_classes", [10, 3, 0])
def test_timm_local_dir_raises(damage, tensor, num_classes, packed, folder):
    """Other classes than the file's make timm load with strict=False; even then nothing may be silently left out."""
    damaged(packed, damage, folder)
    with pytest.raises(Exception) as error:
        timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=num_classes)
    if damage not in (truncated, truncated_header, empty, pickled):
        assert tensor in str(error.value)


@by_case
def test_the_command_line_says_it_in_one_line(damage, tensor, packed, folder, capsys):
    path = damaged(packed, damage, folder)
    for command in (["unpack", str(path), str(folder / "floats.safetensors"), "--model", "test_reactnet"],
                    ["unpack", str(folder), str(folder.parent / f"{folder.name}-floats")]):
        assert main(command) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        assert str(folder) in err and (tensor or "") in err
    assert not (folder / "floats.safetensors").exists()


def test_padding_bits():
    bits, scale = packing.pack_weight(torch.ones(2, 5, 1, 1))
    assert bits.tolist() == [[31], [31]]
    bits[1, 0] |= 64
    with pytest.raises(packing.PackedError, match="^layer.weight_bits has padding bits"):
        packing.restore_weight(bits, scale, (2, 5, 1, 1), "layer.weight")


def test_a_sign_without_size():
    """A row of scale 0 has one form only, else loading and packing again would change the file."""
    bits, scale = packing.pack_weight(torch.zeros(2, 5, 1, 1))
    bits[0, 0] = 0
    with pytest.raises(packing.PackedError, match="scale is 0"):
        packing.restore_weight(bits, scale, (2, 5, 1, 1), "layer.weight")


# Fuzzing


def mutate(data: bytes, generator: random.Random) -> bytes:
    """Flip one byte or several, cut the end off, or cut a piece out; half of the places are in the header."""
    header = 8 + int.from_bytes(data[:8], "little")

    def place() -> int:
        return generator.randrange(header if generator.random() < 0.5 else len(data))

    kind = generator.randrange(4)
    if kind == 2:
        return data[: place()]
    if kind == 3:
        start = place()
        return data[:start] + data[start + generator.randint(1, 64) :]
    changed = bytearray(data)
    for _ in range(1 if kind == 0 else generator.randint(2, 8)):
        changed[place()] ^= generator.randint(1, 255)
    return bytes(changed)


def same(left, right):
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in right
    )


def fuzz(packed, folder, places, timm_every):
    path = folder / "model.safetensors"
    packing.save_packed(path, packed)
    whole = path.read_bytes()
    floats = load_model("test_reactnet", path, num_classes=10).state_dict()
    headless = {name: tensor for name, tensor in floats.items() if not name.startswith("head.")}
    refused = 0
    for seed in range(places):
        path.write_bytes(mutate(whole, random.Random(seed)))
        try:
            loaded = packing.read_packed(path)
        except BurnError as error:
            assert str(path) in str(error) and "\n" not in str(error), seed
            refused += 1
        else:
            assert same(loaded, packed), seed
        try:
            read_state_dict(path)
        except BurnError as error:
            assert str(path) in str(error) and "\n" not in str(error), seed
        if seed % timm_every:
            continue
        ways = [
            (lambda: load_model("test_reactnet", path, num_classes=10), floats, BurnError),
            (lambda: timm.create_model("test_reactnet", num_classes=10, checkpoint_path=path), floats, Exception),
            (lambda: timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0), headless, Exception),
        ]
        for create, expected, failure in ways:
            try:
                model = create()
            except failure:
                continue
            assert same(model.state_dict(), expected), seed
    assert refused > 0.9 * places  # all but the flips in the metadata, which carry nothing


def test_fuzz(packed, folder):
    fuzz(packed, folder, places=300, timm_every=1)


@pytest.mark.slow
def test_fuzz_ten_thousand_places(packed, folder):
    fuzz(packed, folder, places=10_000, timm_every=20)
