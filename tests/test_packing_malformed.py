"""Malformed packed files, by hand and by fuzzing, on every way a file gets into a model."""

import json
import random

import pytest
import timm
import torch
from exported import packed as pack

import burn_timm  # noqa: F401
from burn_timm import packing
from burn_timm.checkpoints import load_model, read_state_dict
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


def flipped(place, by=1):
    def flip(tensor):
        tensor = tensor.clone()
        tensor[place] = tensor[place] + by if tensor.is_floating_point() else tensor[place] ^ by
        return tensor

    return flip


# What is wrong (name, change of each tensor), whether the checksum is made right, so that later checks are reached, and
# which tensor the message must name.
TENSORS = {
    "too few bits": ({BITS: lambda t: t[:, :-1]}, True, BITS),
    "another dtype": ({BITS: lambda t: t.view(torch.int8)}, True, BITS),
    "too many bits": ({BITS: lambda t: torch.cat([t, t[:, :1]], 1)}, True, BITS),
    "no scale": ({SCALE: None}, True, SCALE), "no bits": ({BITS: None}, True, BITS),
    "no weight": ({BITS: None, SCALE: None}, True, NAME),
    "no float": ({"stem.bn.running_var": None}, True, "stem.bn.running_var"),
    "twice": ({NAME: lambda t: torch.ones(16, 16, 3, 3)}, True, NAME),
    "surplus": ({"stages.9.strange": lambda t: torch.ones(1)}, True, "stages.9.strange"),
    "NaN": ({SCALE: lambda t: t * float("nan")}, True, SCALE), "negative": ({SCALE: lambda t: -t}, True, SCALE),
    "short scale": ({SCALE: lambda t: t[:-1]}, True, SCALE),
    "float of another shape": ({"stem.bn.weight": lambda t: torch.ones(3)}, True, "stem.bn.weight"),
    "version 2": ({MARK: flipped(0, 3)}, False, MARK), "wrong checksum": ({MARK: flipped(5)}, False, MARK),
    "changed float": ({"stem.bn.weight": flipped(0)}, False, MARK),
    "short mark": ({MARK: lambda t: t[:32]}, False, MARK), "no mark": ({MARK: None}, False, MARK),
}
FILES = {  # of a whole file: its bytes, damaged
    "truncated": lambda data: data[:-1000], "truncated header": lambda data: data[:1000], "empty": lambda data: b"",
    "a pickle": None,
}


def ways(folder, checked_by_us):
    """Every way into a model: what to call, and the error that it raises. timm fails first where a file is no
    safetensors file, with errors of its own."""
    path, timms = folder / "model.safetensors", BurnError if checked_by_us else Exception
    yield lambda: load_model("test_reactnet", path, num_classes=10), BurnError
    for classes in (10, 3, 0):  # other classes than the file's make timm load with strict=False
        yield lambda n=classes: load_model(f"local-dir:{folder}", num_classes=n), BurnError
        yield lambda n=classes: timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=n), timms
    yield lambda: timm.create_model("test_reactnet", num_classes=10, checkpoint_path=path), timms


def test_the_whole_file_loads_on_every_way(packed, folder):
    """What the cases below share with a good file is not what makes them fail."""
    packing.save_packed(folder / "model.safetensors", packed)
    for create, _ in ways(folder, True):
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
        path.write_bytes(FILES[case](path.read_bytes()))
    for create, kind in ways(folder, False):
        with pytest.raises(kind) as error:
            create()
        if kind is BurnError:
            assert str(path) in str(error.value) and "\n" not in str(error.value)
        assert case in FILES or tensor in str(error.value)
    for source, target in ((path, folder / "floats.safetensors"), (folder, folder.parent / "floats")):
        line = fails("unpack", source, target, "--model", "test_reactnet")
        assert str(folder) in line and tensor in line and not target.exists()


def test_a_classifier_without_shape_is_refused(packed, folder):
    tensors = change(packed, **{"head.fc.weight": lambda tensor: tensor[0, 0]})
    tensors[MARK] = packing.checksum_mark(tensors)
    packing.save_tensors(folder / "model.safetensors", tensors, packing.METADATA)
    with pytest.raises(BurnError, match=r"model\.safetensors does not fit"):
        load_model(f"local-dir:{folder}", num_classes=None)


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


@pytest.mark.parametrize(("places", "timm_every"), [(300, 4), pytest.param(10_000, 20, marks=pytest.mark.slow)])
def test_a_mutated_file_is_refused_or_changes_nothing(packed, folder, places, timm_every):
    path = folder / "model.safetensors"
    packing.save_packed(path, packed)
    whole = path.read_bytes()
    floats = load_model("test_reactnet", path, num_classes=10).state_dict()
    body = {name: tensor for name, tensor in floats.items() if not name.startswith("head.")}
    refused = 0
    for seed in range(places):
        path.write_bytes(mutate(whole, random.Random(seed)))
        try:
            tensors = read_state_dict(path)[0]
        except BurnError as error:
            assert str(path) in str(error) and "\n" not in str(error), seed
            refused += 1
        else:  # without any trace of packing left, the names do not fit a model
            assert same(tensors, packed) or not packing.is_packed(tensors), seed
        for create, kind in ways(folder, False) if seed % timm_every == 0 else ():
            try:
                loaded = create().state_dict()
            except kind:
                continue
            assert same({name: loaded[name] for name in body}, body), seed
    assert refused > 0.9 * places  # all but the flips in the metadata, which carry nothing
