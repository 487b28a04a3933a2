"""Bits, scales, checksum and file of burn-packed-v1, against loops written from the format's description."""

import hashlib
import json
import math

import numpy as np
import pytest
import timm
import torch
from exported import packed as pack
from safetensors import safe_open

import burn_timm  # noqa: F401
from burn_timm import packing
from burn_timm.nn import binary_weight_names

SHAPES = [(1, 1, 1, 1), (3, 1, 1, 1), (2, 8, 1, 1), (5, 3, 3, 3), (4, 7, 1, 1), (8, 5, 3, 3), (2, 3, 5, 2)]


def random_weight(shape, seed):
    """Values of many sizes, with 0.0 and -0.0 among them."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10.0 ** torch.randint(-6, 3, (shape[0], 1, 1, 1), generator=generator)
    weight = torch.randn(shape, generator=generator) * sizes
    special = torch.rand(shape, generator=generator)
    weight[special < 0.1] = 0.0
    weight[special > 0.9] = -0.0
    return weight


def slow_bits(weight):
    rows = []
    for row in weight.tolist():
        values = [value for channel in row for line in channel for value in line]
        data = [0] * math.ceil(len(values) / 8)
        for index, value in enumerate(values):
            if value >= 0 or not any(values):
                data[index // 8] += 2 ** (index % 8)
        rows.append(data)
    return rows


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_and_scale_equal_a_slow_loop(shape):
    """And the weights restored from them are scale times sign, and pack to the same again."""
    for seed in range(5):
        weight = random_weight(shape, seed)
        bits, scale = packing.pack_weight(weight)
        assert bits.dtype == torch.uint8 and scale.dtype == torch.float32
        assert bits.tolist() == slow_bits(weight)
        restored = packing.restore_weight(bits, scale, weight.shape)
        rows = zip(weight.flatten(1).tolist(), restored.flatten(1).tolist(), scale.tolist(), strict=True)
        for latent, row, value in rows:
            assert value == pytest.approx(math.fsum(map(abs, latent)) / len(latent), rel=1e-6, abs=0)
            assert row == [value if w >= 0 else -value for w in latent]
        again = packing.pack_weight(restored)
        assert torch.equal(again[0], bits) and torch.equal(again[1], scale)
        assert torch.equal(packing.restore_weight(*again, weight.shape), restored)


def test_scale_is_exact_for_equal_magnitudes_where_a_float32_mean_is_not():
    generator = torch.Generator().manual_seed(0)
    plain_mean_fails = False
    for columns in (1, 3, 7, 27, 999, 4608, 9216):
        values = torch.rand(64, generator=generator) * 10.0 ** torch.randint(-30, 30, (64,), generator=generator)
        signs = torch.randint(0, 2, (64, columns), generator=generator) * 2.0 - 1
        weight = (values[:, None] * signs).view(64, columns, 1, 1)
        assert torch.equal(packing.weight_scale(weight), values)
        plain_mean_fails |= not torch.equal(weight.abs().flatten(1).mean(1), values)
    assert plain_mean_fails  # else this test would prove nothing


def test_a_row_without_size_packs_to_the_same_bits_again():
    weight = torch.tensor([[0.0, -0.0, 0.0], [1e-45, -1e-45, 0.0], [-1e-45, 0.0, 0.0]]).view(3, 3, 1, 1)
    bits, scale = packing.pack_weight(weight)
    assert (scale == 0).any()
    again = packing.pack_weight(packing.restore_weight(bits, scale, weight.shape))
    assert torch.equal(again[0], bits) and torch.equal(again[1], scale)


def test_channels_last_and_other_dtypes_pack_to_the_same():
    weight = random_weight((16, 32, 3, 3), 0)
    expected = packing.pack_weight(weight)
    for other in (weight.contiguous(memory_format=torch.channels_last), weight.double(), torch.nn.Parameter(weight)):
        bits, scale = packing.pack_weight(other)
        assert torch.equal(bits, expected[0])
        torch.testing.assert_close(scale, expected[1])
    half = weight.bfloat16()
    bits, scale = packing.pack_weight(half)
    assert torch.equal(scale, packing.pack_weight(half.float())[1])


@pytest.mark.parametrize(("weight", "message"), [
    *((torch.tensor([1, value]).view(2, 1, 1, 1), ": NaN") for value in (math.nan, math.inf, -math.inf)),
    (torch.ones(3), ""), (torch.ones(2, 2, dtype=torch.int64), ""), (torch.ones(2, 0), ""),
])
def test_what_cannot_be_packed_is_refused(weight, message):
    with pytest.raises(packing.PackedError, match=rf"^layer\.weight{message}"):
        packing.pack_weight(weight, "layer.weight")
    _, packed = packed_model()
    with pytest.raises(packing.PackedError, match="packed already"):
        packing.pack_state_dict(packed, [])
    with pytest.raises(packing.PackedError, match=r"^layer\.weight is missing"):
        packing.pack_state_dict({}, ["layer.weight"])


# The file


def packed_model(num_classes=10, seed=0):
    torch.manual_seed(seed)
    model = timm.create_model("test_reactnet", num_classes=num_classes).eval()
    return model, pack(model)


def test_the_file_follows_the_description(tmp_path):
    """Read the file without safetensors: header, bits and the checksum's exact bytes."""
    model, packed = packed_model()
    packing.save_packed(tmp_path / "packed.safetensors", packed)
    data = (tmp_path / "packed.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    metadata = header.pop("__metadata__")
    assert metadata.pop("burn_timm") == "packed-v1" and metadata.keys() == {"format"}
    raw = {name: body[slice(*entry["data_offsets"])] for name, entry in header.items()}
    torch_names = {"F32": "float32", "U8": "uint8", "I64": "int64"}

    total = hashlib.sha256()
    for name in sorted(set(header) - {"burn_packed"}):
        shape = ",".join(map(str, header[name]["shape"]))
        total.update(f'["{name}","{torch_names[header[name]["dtype"]]}",[{shape}]]\n'.encode() + raw[name])
    assert raw["burn_packed"] == b"\x01" + total.digest()

    binary = binary_weight_names(model)
    assert binary
    floats = model.state_dict()
    assert set(header) == {"burn_packed"} | (set(floats) - set(binary)) | {
        f"{name}_{part}" for name in binary for part in ("bits", "scale")
    }
    for name, tensor in floats.items():
        if name in binary:
            assert np.frombuffer(raw[f"{name}_bits"], np.uint8).reshape(len(tensor), -1).tolist() == slow_bits(tensor)
        else:
            assert raw[name] == tensor.numpy().tobytes()


def test_the_same_weights_give_the_same_bytes(tmp_path):
    _, packed = packed_model()
    files = set()
    for index in range(20):  # safetensors alone orders its metadata at random
        order = list(packed.items())[:: 1 if index % 2 else -1]
        packing.save_packed(tmp_path / "packed.safetensors", dict(order))
        files.add((tmp_path / "packed.safetensors").read_bytes())
    assert len(files) == 1
    with safe_open(tmp_path / "packed.safetensors", framework="pt") as file:
        assert file.metadata() == packing.METADATA


# Loading


def test_a_packed_model_inside_a_bigger_module():
    model, packed = packed_model()
    backbone = timm.create_model("test_reactnet", num_classes=10)
    outer = torch.nn.ModuleDict({"backbone": backbone, "head": torch.nn.Linear(2, 2)})
    state_dict = {f"backbone.{name}": tensor for name, tensor in packed.items()}
    state_dict.update({f"head.{name}": tensor for name, tensor in torch.nn.Linear(2, 2).state_dict().items()})
    names = list(state_dict)
    outer.load_state_dict(state_dict)
    assert list(state_dict) == names and torch.equal(outer["head"].weight, state_dict["head.weight"])
    again = pack(outer["backbone"])
    assert all(torch.equal(again[name], packed[name]) for name in packed)
    state_dict["backbone.stem.bn.weight"] = state_dict["backbone.stem.bn.weight"] + 1
    with pytest.raises(packing.PackedError, match="checksum"):
        outer.load_state_dict(state_dict)
