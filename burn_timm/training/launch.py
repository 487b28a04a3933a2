"""What accelerate's launcher asks for, by its arguments and environment variables: honoured, refused or irrelevant.

Honoured, by accelerate: `ACCELERATE_USE_CPU`, `_MIXED_PRECISION` (no, bf16, fp16), `_CPU_AFFINITY`, `_TORCH_DEVICE`,
`_DEBUG_MODE`, `_LOG_LEVEL`, `_ENABLE_RICH`. Honoured here: `_GRADIENT_ACCUMULATION_STEPS` and `_GRADIENT_CLIPPING`, or
the launcher's arguments of these names, which it hands to DeepSpeed only: they are defaults of ours, above a recipe's.

Refused here: FSDP, DeepSpeed, Megatron-LM, parallelism configurations, SageMaker's distribution, TPUs, fp8, fp16 on a
CPU (accelerate would train in float32), and `_DYNAMO_BACKEND` (`--compile` is ours). With them go the variables of
their details: `FSDP_*`, `ACCELERATE_DEEPSPEED_*`, `MEGATRON_LM_*`, `PARALLELISM_CONFIG_*`, `ACCELERATE_FP8_*`,
`ACCELERATE_DYNAMO_*`, `ACCELERATE_DOWNCAST_BF16`, `ACCELERATE_CONFIG_DS_FIELDS`, `ACCELERATE_ALLOW_CP_STANDALONE`.

Irrelevant: `_BYPASS_DEVICE_MAP` and `_INIT_INCLUDE_BUFFERS` (models over several devices), `_DEBUG_RDV_FILE` and
`_NUM_PROCESSES` (accelerate's own tests).
"""

import os

from accelerate.utils import parse_flag_from_env

from ..compat import launcher_arguments
from ..errors import BurnError

OPTIONS = {"gradient_accumulation_steps": "--grad-accum-steps", "gradient_clipping": "--clip-grad"}
_REFUSED = {
    "ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration", "ACCELERATE_IN_TPU_POD": "TPUs",
}


def launched_options() -> list[str]:
    """The words of the launcher that are options of ours, such as `--grad-accum-steps 3`."""
    told = launcher_arguments()
    values = {name: os.environ.get(f"ACCELERATE_{name.upper()}", told.get(name)) for name in OPTIONS}
    return [word for name, value in values.items() if value is not None for word in (OPTIONS[name], str(value))]


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


def told_of_several() -> bool:
    """Whether `accelerate launch --cpu --num_processes N` started this process: it starts one for all N of them."""
    launched, joined = "ACCELERATE_MIXED_PRECISION" in os.environ, "LOCAL_RANK" in os.environ
    return launched and not joined and "MASTER_ADDR" in os.environ
