"""The processes and cores of a run, settled before anything is broadcast, and what accelerate's launcher asks for.

The launcher asks by its arguments and by environment variables. Honoured, by accelerate: `ACCELERATE_USE_CPU`,
`_MIXED_PRECISION` (no, bf16, fp16), `_CPU_AFFINITY`, `_TORCH_DEVICE`, `_DEBUG_MODE`, `_LOG_LEVEL`, `_ENABLE_RICH`.
Honoured here: `_GRADIENT_ACCUMULATION_STEPS` and `_GRADIENT_CLIPPING`, or the launcher's arguments of these names,
which it hands to DeepSpeed only: they are defaults of ours, above a recipe's.

Refused here: FSDP, DeepSpeed, Megatron-LM, parallelism configurations, SageMaker's distribution, TPUs, fp8, fp16 on a
CPU (accelerate would train in float32), and `_DYNAMO_BACKEND` (`--compile` is ours). With them go the variables of
their details: `FSDP_*`, `ACCELERATE_DEEPSPEED_*`, `MEGATRON_LM_*`, `PARALLELISM_CONFIG_*`, `ACCELERATE_FP8_*`,
`ACCELERATE_DYNAMO_*`, `ACCELERATE_DOWNCAST_BF16`, `ACCELERATE_CONFIG_DS_FIELDS`, `ACCELERATE_ALLOW_CP_STANDALONE`.

Irrelevant: `_BYPASS_DEVICE_MAP` and `_INIT_INCLUDE_BUFFERS` (models over several devices), `_DEBUG_RDV_FILE` and
`_NUM_PROCESSES` (accelerate's own tests).
"""

import datetime
import gc
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import GradientAccumulationPlugin, broadcast_object_list, gather_object, parse_flag_from_env

from ..compat import launcher_arguments, use_cpu_is_set
from ..errors import BurnError

_logger = logging.getLogger(__name__)

_OPTIONS = {"gradient_accumulation_steps": "--grad-accum-steps", "gradient_clipping": "--clip-grad"}
_REFUSED = {
    "ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration", "ACCELERATE_IN_TPU_POD": "TPUs",
}


def launched_options() -> list[str]:
    """The words of the launcher that are options of ours, such as `--grad-accum-steps 3`."""
    told = launcher_arguments()
    values = {name: os.environ.get(f"ACCELERATE_{name.upper()}", told.get(name)) for name in _OPTIONS}
    return [word for name, value in values.items() if value is not None for word in (_OPTIONS[name], str(value))]


def require_supported() -> None:
    """Raise BurnError for what the launcher asks for and a run cannot do, before accelerate acts on it."""
    asked = [what for name, what in _REFUSED.items() if parse_flag_from_env(name)]
    if os.environ.get("ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE", "NO").upper() != "NO":
        asked.append("SageMaker's distribution")
    if os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower() == "fp8":
        asked.append("fp8")
    if asked:
        raise refusal(asked[0])
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        raise BurnError("accelerate launch: leave --dynamo_backend out (or of `accelerate config`); we have --compile")


def refusal(what: str) -> BurnError:
    return BurnError(
        f"accelerate launch asks for {what}, which train_burn.py does not support: each process has the whole network; "
        "leave it out of the command, and out of what `accelerate config` has written"
    )


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
    # Of `--cpu --num_processes N` the launcher starts one process, with these variables but LOCAL_RANK.
    asked = {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys() and "LOCAL_RANK" not in os.environ
    if state.num_processes == 1 and asked:
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


def choose_output(output: str | None, model: str) -> Path:
    """`output`, or a folder named by time and model, the same in every process."""
    dated = f"output/{datetime.datetime.now():%Y%m%d-%H%M%S}-{model.replace('/', '_')}"
    return Path(broadcast_object_list([output or dated])[0])


def require_same(value: Any, error: str) -> None:
    """Raise BurnError, in every process, unless `value` is the same in all of them."""
    if any(other != value for other in gather_object([value])):
        raise BurnError(error)


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
