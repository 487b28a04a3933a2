"""The packed format `burn-packed-v1`: 1-bit convolution weights as bits in a safetensors file.

For every binary weight `<name>` of shape `[O, I, kH, kW]` the file holds

- `<name>_bits`, uint8 `[O, ceil(I*kH*kW / 8)]`: bit j of a row (little-endian within a byte) is 1 where element j of
  that row, in the weight's own memory order, is >= 0. Padding bits are 0. In a row whose scale is 0 every bit is 1.
- `<name>_scale`, float32 `[O]`: the mean absolute weight of each output channel.

Every other tensor is stored as it is. `burn_packed`, uint8 `[33]`, is the version and a SHA-256 (see `checksum_mark`).
The metadata are `METADATA`. Loading restores scale * sign; packing that again gives the same tensors.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import safe_open

from .errors import BurnError, one_line
from .files import atomic_write

MARK = "burn_packed"
VERSION = 1
# Transformers 4 and accelerate set tensors by name, which would leave the packed weights random. But they read only the
# format "pt"; transformers' error cites any other. timm does not look at it. Older packed files say "pt".
METADATA = {
    "burn_timm": "packed-v1",
    "format": "packed 1-bit weights, which only timm reads: for others write floats by burn-timm unpack FOLDER FLOATS",
}
# Name of a training stage of a binary network -> (weight_bits, act_bits).
STAGES = {"w1a1": (1, 1), "w32a1": (32, 1), "w32a32": (32, 32)}


class PackedError(BurnError):
    """Packed weights that are malformed or do not fit the model."""


def weight_scale(weight: torch.Tensor) -> torch.Tensor:
    """Mean absolute value per output channel (XNOR-Net, Eq. 6): `[O, ...]` to `[O]`, in the dtype of `weight`.

    Exact where all |w| of a row are equal: there the mean of n equal numbers is taken to be that number, because their
    sum in float32 is not always n times it. A sum in float64 would be exact too, but takes half as long again on a CPU
    and does not exist on every device. Plain tensor code: it can be scripted, traced, exported and compiled.
    """
    size = weight.abs().flatten(1)
    largest = size.amax(1)
    return torch.where(size.amin(1) == largest, largest, size.mean(1))


def packed_shapes(shape: Iterable[int]) -> tuple[tuple[int, int], tuple[int]]:
    """Shapes of bits and scale of a weight `[O, I, kH, kW]`: `[O, ceil(I*kH*kW / 8)]` and `[O]`."""
    rows, *rest = shape
    return (rows, -(-math.prod(rest) // 8)), (rows,)


def pack_weight(weight: torch.Tensor, name: str = "weight") -> tuple[torch.Tensor, torch.Tensor]:
    """Bits and scale of a latent weight: `[O, I, kH, kW]` to uint8 `[O, ceil(I*kH*kW / 8)]` and float32 `[O]`.

    `sign(0)` and `sign(-0.0)` are +1. A row whose scale is 0 gets the bits of +0: its signs mean nothing, and so
    packing what was loaded gives the same bits. Runs on the device of `weight`.

    Raises:
        PackedError: `weight` is not floating-point, has less than two dimensions or no elements, or is not finite.
    """
    weight = weight.detach()
    if not weight.is_floating_point() or weight.ndim < 2 or weight.numel() == 0:
        raise PackedError(f"{name}: only floating-point weights [O, I, ...] can be packed, not {_describe(weight)}")
    scale = weight_scale(weight if weight.dtype == torch.float64 else weight.float()).float()
    if not torch.isfinite(scale).all():
        raise PackedError(f"{name}: NaN, infinite or too large weights cannot be packed; did the training diverge?")
    positive = (weight.flatten(1) >= 0) | (scale == 0)[:, None]
    positive = F.pad(positive.to(torch.uint8), (0, -positive.shape[1] % 8))
    bits = (positive.view(len(positive), -1, 8) << _places(weight.device)).sum(-1, dtype=torch.uint8)
    return bits, scale


def restore_weight(
    bits: torch.Tensor | None, scale: torch.Tensor | None, shape: Iterable[int], name: str = "weight",
) -> torch.Tensor:
    """scale * sign: uint8 `[O, ceil(I*kH*kW / 8)]` and float32 `[O]` to a contiguous float32 weight of `shape`.

    Raises:
        PackedError: A tensor is missing or has another dtype or shape, a padding bit is set, a scale is negative or not
            finite, or a row of scale 0 has a negative sign. The message names the tensor.
    """
    shape = tuple(shape)
    columns = math.prod(shape[1:])
    bits_shape, scale_shape = packed_shapes(shape)
    expected = (
        (f"{name}_bits", bits, torch.uint8, bits_shape),
        (f"{name}_scale", scale, torch.float32, scale_shape),
    )
    for key, tensor, dtype, size in expected:
        if tensor is None:
            raise PackedError(f"{key} is missing")
        if tensor.dtype != dtype or tuple(tensor.shape) != size:
            raise PackedError(
                f"{key} is {_describe(tensor)}, but a weight of shape {list(shape)} needs {_describe(dtype, size)}"
            )
    if not torch.isfinite(scale).all() or torch.signbit(scale).any():
        raise PackedError(f"{name}_scale holds a negative, infinite or NaN scale")
    positive = ((bits[:, :, None] >> _places(bits.device)) & 1).flatten(1).bool()
    if positive[:, columns:].any():
        raise PackedError(f"{name}_bits has padding bits that are not 0")
    positive = positive[:, :columns]
    if not positive[scale == 0].all():
        raise PackedError(f"{name}_bits has negative signs in a row whose scale is 0")
    scale = scale[:, None]
    return torch.where(positive, scale, -scale).view(shape)


def digest(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """SHA-256 (32 bytes) over `tensors`.

    Over the names in ascending order of their Unicode code points, for each the JSON text `["name","dtype",[shape]]`
    without spaces and in ASCII (as `json.dumps(..., separators=(",", ":"))` writes it; the dtype as torch calls it, for
    example `float32`), a newline, and the tensor's elements in row-major order, little-endian.
    """
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        header = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        total.update(json.dumps(header, separators=(",", ":")).encode("ascii") + b"\n")
        total.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.digest()


def checksum_mark(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The tensor `burn_packed`, uint8 `[33]`: the version (1), then `digest` over all other tensors of `tensors`."""
    rest = {name: tensor for name, tensor in tensors.items() if name != MARK}
    return torch.tensor([VERSION, *digest(rest)], dtype=torch.uint8)


def is_scaled_sign(weight: torch.Tensor) -> bool:
    """Whether all |w| of each output channel are equal, which only 1-bit training, or loading packed weights, gives."""
    size = weight.abs().flatten(1)
    return bool((size == size[:, :1]).all())


def trained_bits(
    state_dict: Mapping[str, torch.Tensor], binary_names: Iterable[str], metadata: Mapping[str, str] | None = None,
) -> int | None:
    """With how many bits, 1 or 32, the binary weights of a file were trained; None where nothing tells.

    Args:
        binary_names: Names of those weights that the model stores as bits.
        metadata: Of the file, see `checkpoints.latent_metadata`.
    """
    told = (metadata or {}).get("weight_bits")
    if is_packed(state_dict):
        return 1
    if told in ("1", "32"):
        return int(told)
    weights = [state_dict[name] for name in binary_names if name in state_dict]
    return 1 if weights and all(map(is_scaled_sign, weights)) else None


def packed_weight_names(names: Iterable[str]) -> list[str]:
    """Names `<name>` of the weights of which `<name>_bits` or `<name>_scale` is among `names`, sorted."""
    endings = ("weight_bits", "weight_scale")
    return sorted({name.rpartition("_")[0] for name in names if name.rpartition(".")[2] in endings})


def is_packed(state_dict: Mapping[str, torch.Tensor]) -> bool:
    """Whether `state_dict` holds `burn_packed` or any `<name>_bits` or `<name>_scale` of a weight."""
    return MARK in state_dict or bool(packed_weight_names(state_dict))


def pack_state_dict(state_dict: Mapping[str, torch.Tensor], binary_names: Iterable[str]) -> dict[str, torch.Tensor]:
    """A packed copy, on the CPU: the weights in `binary_names` as bits and scale, the rest as it is, and the mark.

    Scales are computed on the device of each weight. Raises PackedError where a weight is missing or cannot be packed.
    """
    if is_packed(state_dict):
        raise PackedError("this state dict is packed already")
    binary_names = set(binary_names)
    if missing := sorted(binary_names - set(state_dict)):
        raise PackedError(f"{missing[0]} is missing")
    packed = {}
    for name, tensor in state_dict.items():
        if name in binary_names:
            packed[f"{name}_bits"], packed[f"{name}_scale"] = pack_weight(tensor, name)
        else:
            packed[name] = tensor
    packed = {name: tensor.detach().cpu().contiguous() for name, tensor in packed.items()}
    return {**packed, MARK: checksum_mark(packed)}


def verify(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Check a packed state dict whole and return it without the mark; what a weight's shape must be is not known here.

    Raises:
        PackedError: No mark, another version, a wrong checksum, bits without scale or scale without bits, or both
            forms of one weight.
    """
    state_dict = dict(state_dict)
    mark = state_dict.pop(MARK, None)
    if mark is None:
        raise PackedError(f"{MARK} is missing: the weights are damaged, or no burn-packed-v1 file")
    if mark.dtype != torch.uint8 or tuple(mark.shape) != (33,):
        raise PackedError(f"{MARK} is {_describe(mark)}, but {_describe(torch.uint8, (33,))} is needed")
    if int(mark[0]) != VERSION:
        raise PackedError(f"{MARK} is of version {int(mark[0])}, but this burn_timm reads only {VERSION}: update it")
    for name in packed_weight_names(state_dict):
        for key in (f"{name}_bits", f"{name}_scale"):
            if key not in state_dict:
                raise PackedError(f"{key} is missing")
        if name in state_dict:
            raise PackedError(f"{name} is there twice: packed, and as it is")
    if bytes(mark[1:].tolist()) != digest(state_dict):
        raise PackedError(f"the checksum in {MARK} is wrong: the weights are damaged; copy or download the file again")
    return state_dict


def unpack_state_dict(
    state_dict: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size],
) -> dict[str, torch.Tensor]:
    """Verify a packed state dict and restore its weights to floats; `shapes` gives the shape of each binary weight.

    Raises:
        PackedError: See `verify` and `restore_weight`; or a packed weight is not in `shapes`.
    """
    floats = verify(state_dict)
    for name in packed_weight_names(floats):
        if name not in shapes:
            raise PackedError(f"{name} is packed, but no binary weight of the model; is the file another model's?")
        floats[name] = restore_weight(floats.pop(f"{name}_bits"), floats.pop(f"{name}_scale"), shapes[name], name)
    return floats


def save_tensors(path: str | os.PathLike, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, atomically; the same tensors and metadata give the same bytes."""
    # Clones, because safetensors refuses tensors that share memory.
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = safetensors.torch.save(own, dict(metadata))
    # safetensors writes the metadata in the order of a hash table, which differs from run to run. Sort them.
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    with atomic_write(path) as beside, open(beside, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(memoryview(data)[8 + size :])


def save_packed(path: str | os.PathLike, state_dict: Mapping[str, torch.Tensor]) -> None:
    """Write a state dict made by `pack_state_dict` to `path` (safetensors), atomically, with deterministic bytes."""
    verify(state_dict)
    save_tensors(path, state_dict, METADATA)


def read_tensors(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; raises PackedError."""
    path = Path(path)
    if not path.is_file():
        raise PackedError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except Exception as error:  # a damaged header surfaces as any of a dozen types, from Rust, torch or Python
        what = f"truncated or damaged ({one_line(error)})"
        raise PackedError(f"{path}: {what}; copy or download the file again") from error


def _places(device: torch.device) -> torch.Tensor:
    return torch.arange(8, dtype=torch.uint8, device=device)


def _describe(tensor: torch.Tensor | torch.dtype, shape: Iterable[int] | None = None) -> str:
    dtype = tensor if isinstance(tensor, torch.dtype) else tensor.dtype
    return f"{str(dtype).removeprefix('torch.')} {list(tensor.shape if shape is None else shape)}"
