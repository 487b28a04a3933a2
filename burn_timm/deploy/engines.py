"""The engines that `burn-timm bench` compares. Each writes one file or folder, and opens it as a function to time.

`prepare` and `open` are apart, so that a fresh process can open what was prepared and measure the memory it adds.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..errors import BurnError
from ..models import ReActNet
from .engine import core, cpu_settings, load, require_openvino
from .export import export, to_onnx
from .plain import plain_network

Shape = tuple[int, int, int, int]
Run = Callable[[], object]  # one call: the images of `shape` through the network
CALIBRATION_IMAGES = 4


@dataclass(frozen=True)
class Engine:
    """title: in the table. packages: what it needs. prepare: (model, file or folder to write, shape) -> None.
    open: (file or folder, threads, images `[B, C, H, W]`) -> Run. fits: whether it can run `model` at all."""

    title: str
    packages: tuple[str, ...]
    prepare: Callable[[nn.Module, Path, Shape], None]
    open: Callable[[Path, int, np.ndarray], Run]
    fits: Callable[[nn.Module], bool] = lambda model: True

    def missing(self) -> str | None:
        """What keeps the engine from running here, or None."""
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                extra = "onnx" if package.startswith("onnx") else package
                return f'{package} is missing: pip install "burn-timm[{extra}]"'
        return None


def _prepare_torch(dtype: torch.dtype) -> Callable[[nn.Module, Path, Shape], None]:
    def prepare(model: nn.Module, path: Path, shape: Shape) -> None:
        torch.save(plain_network(model).to(dtype=dtype, memory_format=torch.channels_last), path)

    return prepare


def _open_torch(dtype: torch.dtype, compiled: bool = False) -> Callable[[Path, int, np.ndarray], Run]:
    def open_it(path: Path, threads: int, images: np.ndarray) -> Run:
        torch.set_num_threads(threads)
        network = torch.load(path, weights_only=False)  # a module that this process or its parent has just written
        if compiled:
            network = torch.compile(network)
        x = torch.from_numpy(images).to(dtype=dtype, memory_format=torch.channels_last)

        def run() -> torch.Tensor:
            torch.set_num_threads(threads)  # of the whole process: other engines may have changed it
            with torch.inference_mode():
                return network(x)

        return run

    return open_it


def _prepare_onnx(model: nn.Module, path: Path, shape: Shape) -> None:
    to_onnx(plain_network(model).float(), path, shape, ["output"])


def _prepare_int8(model: nn.Module, path: Path, shape: Shape) -> None:
    """Static quantisation, 8-bit weights (a scale a channel) and activations. Ranges are of noise: for timing only."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Noise(CalibrationDataReader):
        def __init__(self) -> None:
            generator = np.random.default_rng(0)
            batches = -(-CALIBRATION_IMAGES // shape[0])
            self.left = [generator.standard_normal(shape, np.float32) for _ in range(batches)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return {"images": self.left.pop()} if self.left else None

    floats = path.with_name("floats.onnx")
    try:
        _prepare_onnx(model, floats, shape)
        # Without it a bias that two layers share is no constant, and their convolutions stay in fp32.
        quant_pre_process(floats, floats, skip_symbolic_shape=True)
        quantize_static(
            floats, path, Noise(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )
    finally:
        floats.unlink(missing_ok=True)


def _open_onnxruntime(path: Path, threads: int, images: np.ndarray) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"images": images})


def _prepare_openvino(half: bool) -> Callable[[nn.Module, Path, Shape], None]:
    def prepare(model: nn.Module, path: Path, shape: Shape) -> None:
        openvino = require_openvino()
        path.mkdir()
        floats = path / "floats.onnx"  # not by convert_model, which reports home (openvino-telemetry)
        _prepare_onnx(model, floats, shape)
        openvino.save_model(core().read_model(floats), path / "model.xml", compress_to_fp16=half)
        floats.unlink()

    return prepare


def _open_openvino(precision: str) -> Callable[[Path, int, np.ndarray], Run]:
    def open_it(path: Path, threads: int, images: np.ndarray) -> Run:
        if precision == "bf16" and "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise BurnError("this CPU does not compute in bfloat16")
        file = path / "model.xml" if path.is_dir() else path
        request = core().compile_model(file, "CPU", cpu_settings(threads, precision)).create_infer_request()
        return lambda: request.infer({0: images}, share_outputs=True)

    return open_it


def _prepare_one_bit(format: str) -> Callable[[nn.Module, Path, Shape], None]:
    return lambda model, path, shape: export(model, path, format, shape[-1], shape[0])


def _open_one_bit(path: Path, threads: int, images: np.ndarray) -> Run:
    model = load(path, threads)
    return lambda: model(images)  # checks and copies included: what a user gets


def _is_one_bit(model: nn.Module) -> bool:
    return isinstance(model, ReActNet) and (model.weight_bits, model.act_bits) == (1, 1)


def _is_another(model: nn.Module) -> bool:
    return not isinstance(model, ReActNet)


_F32, _BF16 = torch.float32, torch.bfloat16
_ORT = ("onnx", "onnxruntime")
OURS = ("openvino-1bit", "numba-1bit")
ENGINES = {
    OURS[0]: Engine("OpenVINO 1-bit", ("openvino",), _prepare_one_bit("openvino"), _open_one_bit, _is_one_bit),
    OURS[1]: Engine("numba 1-bit", ("numba",), _prepare_one_bit("numba"), _open_one_bit, _is_one_bit),
    "torch": Engine("torch fp32", (), _prepare_torch(_F32), _open_torch(_F32)),
    "torch-bf16": Engine("torch bf16", (), _prepare_torch(_BF16), _open_torch(_BF16)),
    "torch-compile": Engine("torch.compile fp32", (), _prepare_torch(_F32), _open_torch(_F32, compiled=True)),
    "onnxruntime": Engine("onnxruntime fp32", _ORT, _prepare_onnx, _open_onnxruntime),
    "onnxruntime-int8": Engine("onnxruntime int8", _ORT, _prepare_int8, _open_onnxruntime, _is_another),
    "openvino": Engine("OpenVINO fp32", ("onnx", "openvino"), _prepare_openvino(False), _open_openvino("f32")),
    "openvino-bf16": Engine("OpenVINO bf16", ("onnx", "openvino"), _prepare_openvino(True), _open_openvino("bf16")),
    "openvino-int8": Engine(
        "OpenVINO int8", (*_ORT, "openvino"), _prepare_int8, _open_openvino("f32"), _is_another,
    ),
}
SLOW_TO_START = ("torch-compile",)  # only where asked for
