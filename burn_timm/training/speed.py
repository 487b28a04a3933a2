"""How a run uses its hardware: --compile, --channels-last, --count-bits and --grad-checkpointing."""

import argparse
import logging

import torch
from torch import nn

from ..errors import BurnError, one_line
from ..nn import count_bits, sign_conv
from .guards import check_compiler

COMPILE_FROM = 1000  # steps of a stage that make up for a minute of compiling

_logger = logging.getLogger(__name__)


def choose(args: argparse.Namespace, device: torch.device, mixed_precision: str, steps: int, tell: bool) -> None:
    """Put what is in force where `args` leave it open (None): compile, channels_last, count_bits.

    Args:
        steps: Of a stage. All is a function of the run's options and the machine, so a resumed run chooses the same.
        tell: Log, in one line each, what a user might not expect.

    Raises:
        BurnError: --compile or --count-bits is asked for and cannot be.
    """
    reason = sign_conv.why_not(device)
    if args.count_bits and reason:
        raise BurnError(f"--count-bits: {reason}")
    if args.count_bits is None:
        args.count_bits = reason is None
    if args.channels_last is None:
        args.channels_last = mixed_precision != "no" or args.count_bits
    if args.compile:
        check_compiler(device)
    elif args.compile is None:
        args.compile = steps >= COMPILE_FROM
        if args.compile and (failure := why_not_compile(device)):
            args.compile = False
            if tell:
                _logger.warning(f"--compile does not work here, so the run is slower: {failure}")
        elif args.compile and tell:
            _logger.info(f"compiling, as a stage has at least {COMPILE_FROM} steps (--no-compile: do not)")


def why_not_compile(device: torch.device) -> str | None:
    """What keeps torch.compile from working here, found by trying something tiny; or None."""
    def tiny(x: torch.Tensor) -> torch.Tensor:
        return (x * 2).relu().sum()

    try:
        check_compiler(device)
        torch.compile(tiny)(torch.ones(8, device=device, requires_grad=True)).backward()
    except Exception as error:  # a broken tool chain raises whatever it likes
        return one_line(error, 200)
    return None


def apply(method: nn.Module, args: argparse.Namespace) -> nn.Module:
    """`method`, not yet wrapped by accelerate, as `choose` has decided; parameter names stay the same."""
    if args.count_bits:
        count_bits(method)
    if args.channels_last:
        method = method.to(memory_format=torch.channels_last)
    if args.grad_checkpointing:
        model = method.backbone.model
        try:
            model.set_grad_checkpointing()
        except (AttributeError, AssertionError) as error:  # how timm's models say that they have none
            raise BurnError(f"--grad-checkpointing: {type(model).__name__} has none") from error
    if args.compile:
        method.backbone.compile(dynamic=False)
        teacher = getattr(method, "teacher", None)
        if teacher is not None:
            teacher.module.compile(dynamic=False)
    return method
