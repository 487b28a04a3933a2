"""An exported network in memory, with the face of a timm model: 1-bit kernels of OpenVINO, or of ours through numba."""

import functools
import hashlib
import importlib
import json
import os
import platform
import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch

from ..errors import BurnError, one_line

OPENVINO, POPCOUNT = "burn-timm-openvino", "burn-timm-popcount"  # config.json's format
FORMAT_VERSION = 1
CONFIG, GRAPH, WEIGHTS, FOLDED = "config.json", "model.xml", "model.bin", "network.safetensors"

# Upstream calls BinaryConvolution-1 old. Each convolution was exact in 2026.0 and in 2026.4, the ends of this range.
TESTED = ((2026, 0), (2027, 0))

Array = TypeVar("Array", torch.Tensor, np.ndarray)


def require_numba() -> ModuleType:
    """The module `numba`; BurnError, in one line, where it is missing."""
    try:
        return importlib.import_module("numba")
    except ImportError as error:
        raise BurnError(f'numba is missing ({one_line(error)}): pip install "burn-timm[numba]"') from error


def require_openvino() -> ModuleType:
    """The module `openvino`; BurnError, in one line, where it is missing or outside the tested range."""
    try:
        module = importlib.import_module("openvino")
    except ImportError as error:
        raise BurnError(f'OpenVINO is missing ({one_line(error)}): pip install "burn-timm[openvino]"') from error
    version = re.match(r"(\d+)\.(\d+)", module.__version__)
    if version is None or not TESTED[0] <= tuple(map(int, version.groups())) < TESTED[1]:
        low, high = (".".join(map(str, end)) for end in TESTED)
        raise BurnError(
            f"OpenVINO {module.__version__} is not tested: 1-bit networks need >={low},<{high}: "
            'pip install "burn-timm[openvino]"'
        )
    return module


@functools.cache
def core() -> Any:
    """The process's one `openvino.Core`; errors as in `require_openvino`.

    Each Core gives its thread another stack for signals. Two that do not end in the reverse of their order leave that
    stack unmapped (OpenVINO 2026.4), and the next signal, such as the end of a loader's worker, kills the process.
    """
    return require_openvino().Core()


def cpu_settings(threads: int | None, precision: str = "f32") -> dict[str, Any]:
    """Properties for compile_model: one image after the other, on at most `threads` threads (None: OpenVINO's choice).

    Without the hint OpenVINO computes in bfloat16 where the CPU can. Pinning would bind two models to the same core.
    """
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    return settings


class OneBitModel:
    """A network that `load` has opened. Call it from as many threads as you like: images run one call at a time.

    Attributes:
        architecture: timm's name of the network.
        batch_size, input_size: The shape it was exported for; input_size is `(C, H, W)`.
        num_classes: 0 where it has no classifier.
        num_features: Channels of the feature map.
        pretrained_cfg: mean, std, crop_pct, ... as in timm, for `timm.data.resolve_model_data_config(model)`.
        label_names: Names of the classes, or None where the checkpoint had none.
    """

    def __init__(self, config: dict[str, Any], outputs: set[str], run: Callable[[np.ndarray, str], np.ndarray]):
        self.config = config
        self.architecture: str = config["architecture"]
        self.pretrained_cfg: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in config["pretrained_cfg"].items()
        }
        self.input_size: tuple[int, int, int] = self.pretrained_cfg["input_size"]
        self.batch_size: int = config["batch_size"]
        self.num_classes: int = config["num_classes"]
        self.num_features: int = config["num_features"]
        self.label_names: list[str] | None = config.get("label_names")
        self._outputs, self._network = outputs, run  # run: images and the name of an output -> an array of its own
        self._lock = threading.Lock()

    def __call__(self, x: Array) -> Array:
        """Images `[B, C, H, W]`, floating point, normalised, to logits `[B, K]`.

        Without a classifier: what `features` gives, or the feature map where there is no pooling either. Torch gives
        torch (float32, on the device of `x`), numpy gives numpy.

        Raises:
            BurnError: Another shape than the one the network was exported for, or integers.
        """
        return self._run(x, next(name for name in ("logits", "features", "feature_map") if name in self._outputs))

    def features(self, x: Array) -> Array:
        """Pooled features `[B, D]`, the classifier's input; otherwise as `__call__`."""
        if "features" not in self._outputs:
            raise BurnError(f"this {self.architecture} was exported without pooling: use forward_features")
        return self._run(x, "features")

    def forward_features(self, x: Array) -> Array:
        """The feature map `[B, D, H / 32, W / 32]` before pooling, as timm's method of that name."""
        return self._run(x, "feature_map")

    def _run(self, x: Array, output: str) -> Array:
        expected = [self.batch_size, *self.input_size]
        if not isinstance(x, (torch.Tensor, np.ndarray)):
            raise BurnError(f"expected a torch tensor or numpy array {expected}, not {type(x).__name__}")
        floating = x.is_floating_point() if isinstance(x, torch.Tensor) else np.issubdtype(x.dtype, np.floating)
        if list(x.shape) != expected:
            raise BurnError(
                f"images are {list(x.shape)}, but this {self.architecture} was exported for {expected}: "
                "export it again with --img-size and --batch-size"
            )
        if not floating:
            raise BurnError(f"images are {x.dtype}: expected floats, normalised with mean and std of pretrained_cfg")
        array = x.detach().float().cpu().numpy() if isinstance(x, torch.Tensor) else x
        array = np.ascontiguousarray(array, dtype=np.float32)
        with self._lock:
            result = self._network(array, output)
        return torch.from_numpy(result).to(x.device) if isinstance(x, torch.Tensor) else result


def load(folder: str | os.PathLike, threads: int | None = None) -> OneBitModel:
    """Open a folder that `burn-timm export --format openvino` or `--format numba` wrote.

    Args:
        folder: With config.json and the files it names.
        threads: CPU threads at most; None: all cores.

    Raises:
        BurnError: No such folder, damaged files, the engine is missing, OpenVINO is outside the tested range, or has no
            1-bit kernels for this CPU.
    """
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise BurnError(f"threads must be a whole number of at least 1, not {threads}")
    folder = Path(folder)
    config = read_config(folder)
    if config["format"] == POPCOUNT:
        return _open_popcount(folder, config, threads)
    require_openvino()
    if platform.machine().lower() not in ("x86_64", "amd64"):
        raise BurnError(
            f"{platform.machine()}: OpenVINO has 1-bit kernels for x86 only; here it goes bit by bit: "
            "export it with --format numba"
        )
    try:
        compiled = core().compile_model(folder / GRAPH, "CPU", cpu_settings(threads))
    except Exception as error:  # OpenVINO raises RuntimeError and its own types
        raise BurnError(f"{folder / GRAPH}: OpenVINO cannot run it here; it needs AVX2 ({one_line(error)})") from error
    request = compiled.create_infer_request()

    def run(images: np.ndarray, output: str) -> np.ndarray:
        request.infer({0: images})
        return np.array(request.get_tensor(output).data)  # the request owns its tensors

    return OneBitModel(config, {name for output in compiled.outputs for name in output.names}, run)


def _open_popcount(folder: Path, config: dict[str, Any], threads: int | None) -> OneBitModel:
    require_numba()
    from .folded import read
    from .network import PopcountNetwork  # numba is needed at import

    shape = (config["batch_size"], *config["pretrained_cfg"]["input_size"])
    network = PopcountNetwork(read(folder / FOLDED), shape, threads)
    return OneBitModel(config, network.outputs, lambda images, output: network(images)[output])


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of an exported folder, whose files are checked against the checksums in it.

    Raises:
        BurnError: It names the file and what is wrong with it.
    """
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BurnError(f"{file}: cannot be read ({one_line(error)}); expected a folder of burn-timm export") from error
    if not isinstance(config, dict) or config.get("format") not in (OPENVINO, POPCOUNT):
        raise BurnError(f"{file}: no 1-bit network; write one with: burn-timm export {folder} OUTDIR --format openvino")
    if config.get("format_version") != FORMAT_VERSION:
        raise BurnError(f"{file}: format_version {config.get('format_version')}, but this burn_timm reads only "
                        f"{FORMAT_VERSION}: update it, or export again")
    for name in (GRAPH, WEIGHTS) if config["format"] == OPENVINO else (FOLDED,):
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise BurnError(f"{folder / name}: cannot be read ({error.strerror}); export again") from error
        if found != config["files"][name]:
            raise BurnError(f"{folder / name}: truncated, damaged or from another export; copy or export it again")
    return config
