"""How much memory a network adds to a process: measured in a process of its own, which runs this file.

    python -m burn_timm.deploy.memory ENGINE FILE THREADS IMAGES.npy

prints two numbers of bytes: resident memory that opening the network and running it three times adds and that stays,
and the most it added on the way. The engine's libraries are loaded, and have run something tiny, before.
"""

import gc
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np

from ..errors import BurnError

_STATUS = Path("/proc/self/statm")


def memory_added(engine: str, prepared: Path, threads: int, images: np.ndarray) -> tuple[int, int]:
    """Bytes that stay and bytes at the peak.

    Raises:
        BurnError: It cannot be measured here (no /proc), or the child failed.
    """
    if not _STATUS.exists():
        raise BurnError("memory is measured on Linux only")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npy"
        np.save(file, images)
        root = str(Path(__file__).resolve().parents[2])  # where it is not installed
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        command = [sys.executable, "-W", "ignore", "-m", "burn_timm.deploy.memory"]
        done = subprocess.run(
            [*command, engine, str(prepared), str(threads), str(file)],
            env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
        )
    words = done.stdout.split()
    if done.returncode or len(words) < 2:
        raise BurnError(f"measuring memory failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return int(words[-2]), int(words[-1])


def _resident() -> int:
    return int(_STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(engine: str, prepared: str, threads: str, images: str) -> None:
    """Measure in this process, and print."""
    from .engines import ENGINES

    _warm_libraries(engine, int(threads))
    x = np.load(images)
    gc.collect()
    before = _resident()
    peak, stop = [before], threading.Event()

    def watch() -> None:
        while not stop.wait(0.002):
            peak[0] = max(peak[0], _resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    run = ENGINES[engine].open(Path(prepared), int(threads), x)
    for _ in range(3):
        run()
    gc.collect()
    after = _resident()
    stop.set()
    watcher.join()
    print(after - before, max(peak[0], after) - before)


def _warm_libraries(engine: str, threads: int) -> None:
    """Import what the engine uses and let it run something tiny, so that only the network is measured."""
    import torch

    with torch.inference_mode():
        torch.nn.Conv2d(8, 8, 3)(torch.zeros(1, 8, 8, 8))
    if engine.startswith("onnxruntime"):
        import onnx
        import onnxruntime

        value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
        graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "tiny", [value], [
            onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
        ])
        tiny = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        session = onnxruntime.InferenceSession(tiny.SerializeToString(), providers=["CPUExecutionProvider"])
        session.run(None, {"x": np.zeros(1, np.float32)})
    if engine.startswith("numba"):  # it compiles its kernels
        import timm

        from .fold import fold
        from .network import PopcountNetwork

        tiny = PopcountNetwork(fold(timm.create_model("test_reactnet")), (1, 3, 32, 32), threads)
        tiny(np.zeros((1, 3, 32, 32), np.float32))
    if engine.startswith("openvino"):
        import openvino
        from openvino import opset13 as ops

        from .engine import core

        x = ops.parameter([1], np.float32)
        core().compile_model(openvino.Model([ops.negative(x)], [x], "tiny"), "CPU")([np.zeros(1, np.float32)])


if __name__ == "__main__":
    main(*sys.argv[1:])
