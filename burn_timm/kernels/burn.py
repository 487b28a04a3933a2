"""burn.py - run network.bin from Python with numpy alone; part of burn-timm, Apache-2.0.

    from burn import Network
    network = Network("network.bin", threads=2)
    features = network(images, "features")  # float32 [B, C, H, W], normalised by network.mean and network.std

`burn-timm export --format c` puts this file beside network.bin and burn.c. There it needs a C compiler once: the
library is built beside it. Inside burn-timm it is what `burn_timm.deploy.load` runs.
"""

import ctypes
import functools
import os
import shlex
import subprocess
import threading
import weakref
from pathlib import Path

import numpy as np

try:
    from ..errors import BurnError as Error
except ImportError:  # on its own, beside an exported network

    class Error(RuntimeError):  # type: ignore[no-redef]
        """One line: what is wrong, and what to do."""


class Shape(ctypes.Structure):
    """`burn_shape` of burn.h."""

    _fields_ = [
        *((name, ctypes.c_int) for name in (
            "channels", "height", "width", "feature_dim", "classes", "pooled", "map_channels", "map_height",
            "map_width",
        )),
        ("mean", ctypes.POINTER(ctypes.c_float)), ("std", ctypes.POINTER(ctypes.c_float)), ("target", ctypes.c_char_p),
    ]


_int, _pointer = ctypes.c_int, ctypes.c_void_p
_OUTPUTS = ("features", "logits", "feature_map")  # in the order of burn_run
SIGNATURES = {
    "burn_open": (_int, [ctypes.c_char_p, _int, ctypes.POINTER(_pointer)]),
    "burn_open_memory": (_int, [ctypes.c_char_p, ctypes.c_size_t, _int, ctypes.POINTER(_pointer)]),
    "burn_run": (_int, [_pointer] * 5),
    "burn_resize": (_int, [_pointer, _int, _int]),
    "burn_close": (None, [_pointer]),
    "burn_get_shape": (Shape, [_pointer]),
    "burn_error": (ctypes.c_char_p, [_int]),
    "burn_use": (_int, [ctypes.c_char_p]),
}


def declare(library: ctypes.CDLL, signatures: dict = SIGNATURES) -> ctypes.CDLL:
    """Tell ctypes what the functions of a library take and give."""
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


@functools.cache
def own_library() -> ctypes.CDLL:
    """The library beside this file, built by the compiler that CC names, or cc, where it is not there yet."""
    here = Path(__file__).parent
    path = here / "libburn.so"
    if not path.is_file():
        beside = here / f".libburn.{os.getpid()}.tmp"  # renamed when it is whole
        command = [*shlex.split(os.environ.get("CC") or "cc"), "-O3", "-fPIC", "-shared", str(here / "burn.c")]
        try:
            subprocess.run([*command, "-o", str(beside), "-lpthread"], check=True, capture_output=True, text=True)
            os.replace(beside, path)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = ((getattr(error, "stderr", "") or str(error)).strip().splitlines() or ["no message"])[0]
            raise Error(f"{here}: burn.c cannot be compiled ({reason}); install a C compiler or set CC") from error
        finally:
            beside.unlink(missing_ok=True)
    try:
        return declare(ctypes.CDLL(str(path)))
    except (OSError, AttributeError) as error:
        raise Error(f"{path}: cannot be loaded ({error}); remove it, and it is built anew") from error


def check(library: ctypes.CDLL, code: int, what: object) -> None:
    """Raise an error with the library's own words for a code other than 0."""
    if code:
        raise Error(f"{what}: {library.burn_error(code).decode()}")


class OneAtATime:
    """A lock for `with`, free in a forked child: the thread that held it in the parent is not there."""

    _all: "weakref.WeakSet[OneAtATime]" = weakref.WeakSet()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    @classmethod
    def free_all(cls) -> None:
        for each in cls._all:
            each._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=OneAtATime.free_all)


class Network:
    """One network.bin; images, and calls of several threads, run one after the other.

    Args:
        file: Its path, or its content.
        threads: 1 or more; results do not depend on it.
        name: What an error message calls the file.
        library: Default: the one beside this file.

    Attributes:
        input_size: `(C, H, W)` of the images.
        mean, std: Of each channel, for images in [0, 1].
        sizes: Shape of each output that there is: `feature_map`, `features`, `logits`.
    """

    def __init__(
        self, file: str | os.PathLike | bytes, threads: int = 1, name: object = None,
        library: ctypes.CDLL | None = None,
    ):
        self._c = library or own_library()
        self._network = _pointer()
        self._alone = OneAtATime()
        if isinstance(file, bytes):
            code = self._c.burn_open_memory(file, len(file), threads, self._network)
        else:
            code = self._c.burn_open(os.fsencode(file), threads, self._network)
        check(self._c, code, name or (file if not isinstance(file, bytes) else "network.bin"))
        self._read_shape()

    def _read_shape(self) -> None:
        shape = self._c.burn_get_shape(self._network)
        self.input_size = (shape.channels, shape.height, shape.width)
        self.mean, self.std = shape.mean[: shape.channels], shape.std[: shape.channels]
        self.sizes = {"feature_map": (shape.map_channels, shape.map_height, shape.map_width)}
        self.sizes |= {"features": (shape.feature_dim,)} if shape.pooled else {}
        self.sizes |= {"logits": (shape.classes,)} if shape.classes else {}

    @property
    def outputs(self) -> set[str]:
        return set(self.sizes)

    def resize(self, height: int, width: int) -> None:
        """Take images of another size from now on; after an error the size stays."""
        with self._alone:
            check(self._c, self._c.burn_resize(self._network, height, width), f"images of {height} x {width}")
            self._read_shape()

    def __call__(self, images: np.ndarray, output: str = "features") -> np.ndarray:
        """float32 images `[B, C, H, W]`, C-contiguous and normalised, to `output` `[B, ...]`."""
        with self._alone:  # sizes too: `resize` changes them
            if images.shape[1:] != self.input_size or images.dtype != np.float32 or not images.flags.c_contiguous:
                raise Error(f"images must be contiguous float32 [B, {', '.join(map(str, self.input_size))}]")
            if output not in self.sizes:
                raise Error(f"no output {output}: this network has {', '.join(sorted(self.sizes))}")
            result = np.empty((len(images), *self.sizes[output]), np.float32)
            for image, place in zip(images, result, strict=True):
                outputs = [place.ctypes.data if output == name else None for name in _OUTPUTS]
                check(self._c, self._c.burn_run(self._network, image.ctypes.data, *outputs), output)
        return result

    def __del__(self) -> None:
        if getattr(self, "_network", None):
            self._c.burn_close(self._network)
