"""Memory of one training step, measured in a process of its own."""

import gc
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rows import ROWS, Row, Setting, Step
from saved_tensors import reactnet_blocks, saved_tensors

_PROC = Path("/proc/self")


def measure(name: str, setting: Setting, threads: int) -> dict:
    """Run this file for a row and return what `measure_here` returns there; dict(error) where that fails."""
    job = json.dumps({"name": name, "setting": asdict(setting), "threads": threads})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, job], capture_output=True, text=True, check=False,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1]}
    return json.loads(lines[-1])


def measure_here(name: str, setting: Setting) -> dict:
    """The step of a row after a first one, which compiles and makes the optimiser's state.

    Returns:
        peak_bytes: most memory in use during the step, without what the process held before the networks were built:
            weights, gradients, optimiser and activations. Resident on a CPU, allocated by torch on a GPU.
        held_bytes: what of it is in use between steps. None, both, where a CPU's cannot be measured (not Linux).
        saved_bytes: kept for the backward pass, parameters left out.
        saved_blocks: the same by block; None for a compiled network.
    """
    row, cuda = ROWS[name], setting.device.startswith("cuda")
    if cuda:
        torch.cuda.init()
    _warm_libraries(row, setting)
    before = torch.cuda.memory_allocated() if cuda else _resident("VmRSS")
    step = Step(row, setting)
    step()
    gc.collect()
    if cuda:
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        peak = torch.cuda.max_memory_allocated()
    else:
        held = _resident("VmRSS")
        can_reset = _reset_peak()
        step()
        peak = _resident("VmHWM") if can_reset else None
    known = None not in (before, held, peak)
    blocks = None if row.compiled else reactnet_blocks(step.backbone.model)
    with saved_tensors(step.trained, blocks) as saved:
        loss = step.loss()
    del loss
    return {
        "peak_bytes": peak - before if known else None, "held_bytes": held - before if known else None,
        "saved_bytes": saved.bytes, "saved_blocks": saved.blocks if blocks else None,
    }


def _warm_libraries(row: Row, setting: Setting) -> None:
    """Let torch, its compiler and numba run the same step of a tiny network, so that their code does not count."""
    Step(row, replace(setting, model="test_reactnet", teacher="test_resnet", batch_size=2))()
    gc.collect()


def _resident(key: str) -> int | None:
    """VmRSS, resident now, or VmHWM, resident at most since the last reset, in bytes."""
    try:
        lines = (_PROC / "status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), None)


def _reset_peak() -> bool:
    try:
        (_PROC / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    print(json.dumps(measure_here(job["name"], Setting(**job["setting"]))))
