"""The engines that `burn-timm bench` compares. Each writes into a folder, and opens that as a function to time.

`prepare` and `open` are apart, so that a fresh process can open what was prepared and measure the memory it adds.
"""

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .. import compat
from ..errors import BurnError
from ..models import is_binary
from .export import export
from .interchange import ONNX_OPSET, Shape, with_standard_layers
from .runtime import engine, load

Run = Callable[[], object]  # one call: the images of `shape` through the network
CALIBRATION_IMAGES = 4


@dataclass(frozen=True)
class Engine:
    """title: in the table. packages: what it needs. prepare: (model, folder to write into, shape) -> None.
    open: (folder, threads, images `[B, C, H, W]`) -> Run. fits: whether it can run `model` at all."""

    title: str
    packages: tuple[str, ...]
    prepare: Callable[[nn.Module, Path, Shape], None]
    open: Callable[[Path, int, np.ndarray], Run]
    fits: Callable[[nn.Module], bool] = lambda model: True

    def missing(self) -> str | None:
        """The reason why the engine cannot run here, or None."""
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                extra = "onnx" if package.startswith("onnx") else package
                return f'{package} is missing: pip install "burn-timm[{extra}]"'
        return None


def noise(shape: Shape) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _one_bit(title: str, format: str) -> Engine:
    def prepare(model: nn.Module, folder: Path, shape: Shape) -> None:
        export(model, folder, format, shape[-1], shape[0])

    def open_it(folder: Path, threads: int, images: np.ndarray) -> Run:
        model = load(folder, threads)
        return lambda: model(images)  # checks and copies included: what a user gets

    def fits(model: nn.Module) -> bool:
        return is_binary(model) and (model.weight_bits, model.act_bits) == (1, 1)

    return Engine(title, () if format == "c" else (format,), prepare, open_it, fits)


def _prepare_torch(model: nn.Module, folder: Path, shape: Shape) -> None:
    torch.save(with_standard_layers(model).to(memory_format=torch.channels_last), folder / "model.pt")


def _open_torch(folder: Path, threads: int, images: np.ndarray) -> Run:
    network = torch.load(folder / "model.pt", weights_only=False)  # this process or its parent has just written it
    x = torch.from_numpy(images).to(memory_format=torch.channels_last)

    def run() -> torch.Tensor:
        torch.set_num_threads(threads)  # of the whole process: other engines may have changed it
        with torch.inference_mode():
            return network(x)

    return run


def _prepare_onnx(model: nn.Module, folder: Path, shape: Shape) -> None:
    network = with_standard_layers(model).float()
    compat.export_onnx(network, folder / "model.onnx", torch.zeros(shape), ["output"], ONNX_OPSET)


def _prepare_int8(model: nn.Module, folder: Path, shape: Shape) -> None:
    """Static quantisation, 8-bit weights (a scale a channel) and activations. Ranges are of noise: for timing only."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Noise(CalibrationDataReader):
        def __init__(self) -> None:
            images = noise((-(-CALIBRATION_IMAGES // shape[0]) * shape[0], *shape[1:]))
            self.left = list(np.split(images, len(images) // shape[0]))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return {"images": self.left.pop()} if self.left else None

    with tempfile.TemporaryDirectory() as beside:
        _prepare_onnx(model, Path(beside), shape)
        floats = Path(beside) / "model.onnx"
        # Without it a bias that two layers share is no constant, and their convolutions stay in fp32.
        quant_pre_process(floats, floats, skip_symbolic_shape=True)
        quantize_static(
            floats, folder / "model.onnx", Noise(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )


def _open_onnxruntime(folder: Path, threads: int, images: np.ndarray) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"images": images})


def _prepare_openvino(half: bool) -> Callable[[nn.Module, Path, Shape], None]:
    def prepare(model: nn.Module, folder: Path, shape: Shape) -> None:
        openvino = engine("openvino")
        with tempfile.TemporaryDirectory() as beside:  # not by convert_model, which reports home (openvino-telemetry)
            _prepare_onnx(model, Path(beside), shape)
            network = openvino.core().read_model(Path(beside) / "model.onnx")
            openvino.ov.save_model(network, folder / "model.xml", compress_to_fp16=half)

    return prepare


def _open_openvino(precision: str) -> Callable[[Path, int, np.ndarray], Run]:
    def open_it(folder: Path, threads: int, images: np.ndarray) -> Run:
        openvino = engine("openvino")
        core = openvino.core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise BurnError("this CPU does not compute in bfloat16")
        file = next(file for file in (folder / "model.xml", folder / "model.onnx") if file.exists())
        settings = openvino.cpu_settings(threads, precision)
        request = core.compile_model(file, "CPU", settings).create_infer_request()
        return lambda: request.infer({0: images}, share_outputs=True)

    return open_it


def _not_binary(model: nn.Module) -> bool:
    return not is_binary(model)


_ORT = ("onnx", "onnxruntime")
OURS = ("c-1bit", "openvino-1bit")
ENGINES = {
    OURS[0]: _one_bit("C 1-bit", "c"),
    OURS[1]: _one_bit("OpenVINO 1-bit", "openvino"),
    "torch": Engine("torch fp32", (), _prepare_torch, _open_torch),
    "onnxruntime": Engine("onnxruntime fp32", _ORT, _prepare_onnx, _open_onnxruntime),
    "onnxruntime-int8": Engine("onnxruntime int8", _ORT, _prepare_int8, _open_onnxruntime, _not_binary),
    "openvino": Engine("OpenVINO fp32", ("onnx", "openvino"), _prepare_openvino(False), _open_openvino("f32")),
    "openvino-bf16": Engine("OpenVINO bf16", ("onnx", "openvino"), _prepare_openvino(True), _open_openvino("bf16")),
    "openvino-int8": Engine(
        "OpenVINO int8", (*_ORT, "openvino"), _prepare_int8, _open_openvino("f32"), _not_binary,
    ),
}
