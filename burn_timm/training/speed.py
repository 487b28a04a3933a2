"""How a run uses its hardware: --compile, --channels-last, --count-bits, --grad-checkpointing and --sync-bn."""

import logging

import torch
from torch import nn

from ..errors import BurnError, one_line
from ..nn import count_bits, sign_conv
from .options import Options
from .parser import COMPILE_FROM

_logger = logging.getLogger(__name__)


def choose(
    options: Options, device: torch.device, mixed_precision: str, steps: int, tell: bool,
) -> dict[str, bool]:
    """What is in force of `compile`, `channels_last` and `count_bits`: chosen where `options` leave it open (None).

    Args:
        steps: Of a stage. All is a function of the run's options and the machine, so a resumed run chooses the same.
        tell: Log, in one line each, what a user might not expect.

    Raises:
        BurnError: --compile, --count-bits or --sync-bn is asked for and cannot be.
    """
    if options.sync_bn and device.type == "cpu":
        raise BurnError("--sync-bn needs GPUs: torch has no synchronised BatchNorm on a CPU")
    reason = "it is for --weight-grad clip" if options.weight_grad != "clip" else sign_conv.why_not(device)
    if options.count_bits and reason:
        raise BurnError(f"--count-bits: {reason}")
    count_bits = reason is None if options.count_bits is None else options.count_bits
    channels_last = options.channels_last
    if channels_last is None:
        channels_last = mixed_precision != "no" or count_bits
    wanted = steps >= COMPILE_FROM if options.compile is None else options.compile
    failure = why_not_compile(device) if wanted else None
    if options.compile and failure:
        raise BurnError(f"--compile does not work here: {failure}; leave it out")
    compiled = wanted and not failure
    if tell and failure:
        _logger.warning(f"--compile does not work here, so the run is slower: {failure}")
    elif tell and compiled and options.compile is None:
        _logger.info(f"compiling, as a stage has at least {COMPILE_FROM} steps (--no-compile: do not)")
    return {"compile": compiled, "channels_last": channels_last, "count_bits": count_bits}


def why_not_compile(device: torch.device) -> str | None:
    """The reason why torch.compile does not work here, found by trying something tiny; or None."""
    def tiny(x: torch.Tensor) -> torch.Tensor:
        return (x * 2).relu().sum()

    try:
        torch.compile(tiny)(torch.ones(8, device=device, requires_grad=True)).backward()
    except Exception as error:  # a broken tool chain raises whatever it likes
        return one_line(error, 200)
    return None


def apply(method: nn.Module, options: Options) -> nn.Module:
    """`method`, not yet wrapped by accelerate, with the options in force; parameter names stay the same."""
    if options.count_bits:
        count_bits(method)
    if options.channels_last:
        method = method.to(memory_format=torch.channels_last)
    if options.grad_checkpointing:
        model = method.backbone.model
        try:
            model.set_grad_checkpointing()
        except (AttributeError, AssertionError) as error:  # how timm's models say that they have none
            raise BurnError(f"--grad-checkpointing: {type(model).__name__} has none") from error
    if options.compile:
        method.backbone.compile(dynamic=False)
        teacher = getattr(method, "teacher", None)
        if teacher is not None:
            teacher.module.compile(dynamic=False)
    return method
