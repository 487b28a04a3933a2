"""What our eager step keeps for the backward pass by count, from the architecture, beside what was measured.

    python benchmarks/saved_count.py results/train_step_64.json
"""

import json
import sys
from math import ceil
from pathlib import Path

import timm
from saved_tensors import block_table

import burn_timm  # noqa: F401 - registers the models
from burn_timm.kernels.layout import block_width
from burn_timm.models.reactnet import PairBlock, ReActNet
from burn_timm.nn import BinaryConv2d


def counted_blocks(model: ReActNet, batch: int, side: int, value: int) -> dict[str, int]:
    """Bytes by block, as `saved_tensors` measures them, for a ReActNet-A without classifier that counts bits.

    Args:
        side: Of the square images.
        value: Bytes of a number of the maps, 2 (bfloat16 by autocast) or 4.
    """
    stem = model.stem.conv
    out = ceil(side / 2)
    kept = {"stem": (
        value * batch * stem.in_channels * side**2  # the images, for the convolution
        + (value * stem.weight.numel() if value == 2 else 0)  # its weight, cast; float32 is the parameter itself
        + value * batch * stem.out_channels * out**2  # what BatchNorm normalises,
        + 8 * stem.out_channels  # and its mean and 1 / deviation in float32
    )}
    for i, stage in enumerate(model.stages):
        for j, block in enumerate(stage):
            kept[f"stages.{i}.{j}"] = of_block(block, batch, out, value)
            out = ceil(out / block.stride)
    return {**kept, "other": 4 * batch * model.num_features}  # the features in float32, for the benchmark's loss


def of_block(block: PairBlock, batch: int, side: int, value: int) -> int:
    """Of one block on maps `[batch, C, side, side]`.

    Each half, a 3x3 from C to C channels and a 1x1 from C to O, keeps three maps of numbers and one of bits:

        RSign         x + b, off which its gradient 2 - 2|x + b| is read
        convolution   its input's signs: `of_convolution`
        BatchNorm     the convolution's output, and of each channel mean and 1 / deviation in float32
        RPReLU        what goes into PReLU, whose slopes are one more number a channel where they were cast

    and nothing for shifts, additions and the repeated shortcut. A stride adds the input of the shortcut's mean of 2x2
    pixels. At stride 1 and O = C these are six numbers and two bits for each pixel and channel.
    """
    channels, outputs = block.conv1.in_channels, block.conv2.out_channels
    out = ceil(side / block.stride)
    before, after = batch * side**2, batch * out**2  # pixels
    maps = before * channels * (2 if block.stride == 2 else 1)  # RSign, the mean of 2x2
    maps += after * channels * 3  # BatchNorm, PReLU; RSign of the second half
    maps += after * outputs * 2  # BatchNorm, PReLU
    of_channel = 8 + (value if value == 2 else 0)  # mean and 1 / deviation; the slope
    return (
        value * maps + of_channel * (channels + outputs)
        + of_convolution(block.conv1, batch, side, value) + of_convolution(block.conv2, batch, out, value)
    )


def of_convolution(conv: BinaryConv2d, batch: int, side: int, value: int) -> int:
    """Of a binary convolution from I to O channels.

    Where it counts bits: a 64-bit word for each 64 channels of each pixel, padding included; the same for each tap of
    each output channel, these in whole blocks of channels; and the scales in float32. Where it does not (I or O no
    multiple of 16; on maps of more than 4x4): its input, +-1, and its weight, mean|w| * sign(w), as numbers.
    """
    outputs, inputs, size = conv.out_channels, conv.in_channels, conv.kernel_size[0]
    if inputs % 16 or outputs % 16:
        return value * (batch * inputs * side**2 + conv.weight.numel())
    words = ceil(inputs / 64)
    width = block_width(outputs, "bits")
    pixels = batch * (side + 2 * conv.padding[0]) ** 2
    return 8 * words * pixels + 8 * words * size**2 * width * ceil(outputs / width) + 4 * outputs


def table(result: dict) -> str:
    """Markdown, of a result of train_step.py for the student alone with the rows that it needs."""
    setting = result["protocol"]
    measured = {row["row"]: row["memory"]["saved_blocks"] for row in result["extra"]["rows"]}
    model = timm.create_model(setting["model"], num_classes=0)
    return block_table({
        "reference style, fp32": measured["reference"],
        "ours, eager, bf16: counted": counted_blocks(model, setting["batch_size"], setting["img_size"], value=2),
        "measured": measured["eager-bf16-cl"],
    })


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text())))
