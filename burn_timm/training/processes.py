"""The processes and cores of a run, settled before anything is broadcast."""

import datetime
import gc
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import GradientAccumulationPlugin, broadcast_object_list

from ..compat import use_cpu_is_set
from ..errors import BurnError
from .launch import refusal, require_supported, told_of_several
from .options import Options

_logger = logging.getLogger(__name__)


def join_processes() -> None:
    """Become one of the processes that `torchrun` or `accelerate launch` started, on CPUs too.

    Raises:
        BurnError: The launcher asks for something else than data parallelism, or several processes were started, but
            accelerate would let each of them run on its own.
    """
    require_supported()
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    if several and not torch.accelerator.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"  # without it accelerate takes each for the only one
    # Long, because the other processes wait while the main one measures.
    state = PartialState(cpu=use_cpu_is_set(), timeout=datetime.timedelta(hours=12))
    if several and state.num_processes == 1:
        raise BurnError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but accelerate ({state.distributed_type.value}) would start as "
            "many separate runs; set ACCELERATE_USE_CPU=true for processes on the CPU, or start one process"
        )
    if state.distributed_type == DistributedType.XLA:
        raise refusal("TPUs")
    if state.num_processes == 1 and told_of_several():
        _logger.warning(
            "one process: on a CPU, accelerate launch starts one, whatever its --num_processes says. For two: "
            "torchrun --nproc_per_node 2 train_burn.py ..."
        )


def leave_processes() -> None:
    """End the process group, if there is one, with its threads.

    Collected first: DistributedDataParallel sits in a reference cycle that holds the group too. gloo's threads would
    live until the interpreter ends, and one that lets go of its last tensor only then aborts the process.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()


def choose_output(options: Options) -> Path:
    """--output, or a folder named by time and model, the same in every process."""
    join_processes()
    dated = f"output/{datetime.datetime.now():%Y%m%d-%H%M%S}-{options.model.replace('/', '_')}"
    demo = "output/demo" if options.epochs == 200 and not options.max_steps else "output/demo-short"
    return Path(broadcast_object_list([options.output or (demo if options.demo else dated)])[0])


def on_main_process(call: Callable[[], Any]) -> Any:
    """What `call` returns on the main process, in every process; the others wait, and do not call it.

    Raises:
        BurnError: In every process, where `call` raises it (or OSError) on the main one: if that process alone ended,
            the others would wait for it.
    """
    answer = [None, None]
    if PartialState().is_main_process:
        try:
            answer = [call(), None]
        except (BurnError, OSError) as error:
            answer = [None, str(error)]
    result, error = broadcast_object_list(answer)
    if error is not None:
        raise BurnError(error)
    return result


def make_accelerator(log_with: str, output: Path) -> Accelerator:
    """Accelerate with the tracker named by --log-with; BurnError where it is unknown or not installed."""
    try:
        accelerator = Accelerator(
            log_with=None if log_with == "none" else log_with, project_dir=output,
            # the loop divides the loss by --grad-accum-steps; accelerate would do so again, by its variable
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        )
    except ValueError as error:
        raise BurnError(f"--log-with {log_with}: {error}") from error
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise BurnError("accelerate launch asks for --mixed_precision fp16, which a CPU has not; give bf16 or no")
    if log_with != "none" and not accelerator.log_with:
        raise BurnError(
            f"--log-with {log_with}: its package is not installed; pip install {log_with}, or give tensorboard or none"
        )
    return accelerator


def default_threads() -> int:
    """The usable cores divided by this machine's processes; accelerate alone would leave a CPU on one thread."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
