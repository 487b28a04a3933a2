"""A folded network (`fold.Network`) in one safetensors file: bits, thresholds, and what is per channel.

Of step i: `steps.i.bits`, uint8 `[O, ceil(I*kH*kW / 8)]`, as in the packed format (bit j of a row, little-endian within
a byte, is 1 where element j of `[I, kH, kW]` is positive; padding bits are 0); `steps.i.threshold` `[I]`, `.scale`,
`.bias`, `.slope` `[O]`, float32; `.project` `[O, I]`, where there is one. Around them `stem.weight` `[O, C, k, k]`,
`stem.bias`, `shift` `[D]`, and `classifier.weight` `[K, D]` (float16 where its range allows: half the file, for a
relative error of 2^-11) and `classifier.bias` `[K]`. What is no array is JSON in the metadata's `network`.
"""

import json
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from .fold import Network, Step

_PER_CHANNEL = ("threshold", "scale", "bias", "slope")


def write(network: Network, path: Path) -> None:
    arrays = {"stem.weight": network.stem_weight, "stem.bias": network.stem_bias, "shift": network.shift}
    steps = []
    for number, step in enumerate(network.steps):
        rows = step.positive.reshape(len(step.positive), -1)
        arrays[f"steps.{number}.bits"] = np.packbits(rows, axis=1, bitorder="little")
        for name in _PER_CHANNEL:
            arrays[f"steps.{number}.{name}"] = getattr(step, name)
        if step.project is not None:
            arrays[f"steps.{number}.project"] = step.project
        steps.append({
            "shape": list(step.positive.shape), "stride": step.stride, "padding": step.padding, "pool": step.pool,
            "repeat": step.repeat,
        })
    if network.classifier is not None:
        weight, arrays["classifier.bias"] = network.classifier
        fits = np.abs(weight).max() <= np.finfo(np.float16).max
        arrays["classifier.weight"] = weight.astype(np.float16) if fits else weight
    rest = {"stem_pool": network.stem_pool, "pool_type": network.pool_type, "steps": steps}
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(contiguous, path, {"network": json.dumps(rest)})


def read(path: Path) -> Network:
    """What `write` wrote. Errors are safetensors' and json's: the caller has checked the file's checksum."""
    with safe_open(path, "numpy") as file:
        rest = json.loads(file.metadata()["network"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}
    steps = []
    for number, step in enumerate(rest["steps"]):
        shape = step["shape"]
        rows = np.unpackbits(arrays[f"steps.{number}.bits"], axis=1, bitorder="little", count=int(np.prod(shape[1:])))
        steps.append(Step(
            positive=rows.reshape(shape).astype(bool), stride=step["stride"], padding=step["padding"],
            pool=step["pool"], repeat=step["repeat"], project=arrays.get(f"steps.{number}.project"),
            **{name: arrays[f"steps.{number}.{name}"] for name in _PER_CHANNEL},
        ))
    classifier = None
    if "classifier.weight" in arrays:
        classifier = arrays["classifier.weight"].astype(np.float32), arrays["classifier.bias"]
    return Network(
        arrays["stem.weight"], arrays["stem.bias"], rest["stem_pool"], steps, arrays["shift"], rest["pool_type"],
        classifier,
    )
