"""burn.c as a shared library: built once by a C compiler of the system, or by zig, and then loaded through ctypes.

The library lies in the user's cache folder. Its name holds a hash of the sources and of the compiler's command, so a
new release or another compiler builds anew.
"""

import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from ..errors import BurnError, one_line
from ..files import atomic_write, cache_folder
from .burn import SIGNATURES, declare

SOURCES = ("burn.h", "burn_kernels.h", "burn.c", "train_kernels.h", "train.c")
FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-shared", "-Wno-psabi", "-w")
_HERE = Path(__file__).parent
_MISSING = (
    'no C compiler: 1-bit kernels need cc, gcc or clang (or the one that CC names), or: pip install "burn-timm[c]"'
)

_int, _size, _pointer, _floats = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p
_TRAINING = {  # train.c
    "burn_pack_signs": (_int, [_int, _int, _pointer, *[_int] * 5, _pointer]),
    "burn_unpack_signs": (_int, [_int, _int, _pointer, *[_int] * 5, _pointer, _pointer, _pointer]),
    "burn_packed_bytes": (_size, [_int, _int, _int]),
    "burn_pack_weights": (_int, [_int, _floats, _int, _int, _int, _pointer, _floats, _pointer]),
    "burn_unpack_weights": (_int, [_int, _int, _pointer, _int, _int, _int, _pointer, _pointer, _pointer]),
    "burn_sign_conv": (_int, [_int, _int, _pointer, *[_int] * 8, _pointer, _floats, _pointer, _pointer]),
    "burn_pass_through": (_int, [_int, _int, _pointer, _floats, _int, _size, _floats]),
}


def why_not_loaded() -> str | None:
    """The reason why the kernels cannot be built or loaded here, or None."""
    try:
        load()
    except BurnError as error:
        return str(error)
    return None


@functools.cache
def load() -> ctypes.CDLL:
    """The library, built first where that is necessary (a few seconds, once).

    Raises:
        BurnError: There is no compiler, or it fails; one line says what to do.
    """
    path = _built()
    try:
        return declare(ctypes.CDLL(str(path)), {**SIGNATURES, **_TRAINING})
    except (OSError, AttributeError) as error:
        raise BurnError(f"{path}: cannot be loaded ({one_line(error)}); remove it, and it is built anew") from error


def build(path: Path, compiler: list[str]) -> None:
    """Build the library as `path`, whole or not at all. Raises BurnError with the compiler's first words."""
    with atomic_write(path) as beside:
        command = [*compiler, *FLAGS, str(_HERE / "train.c"), "-o", str(beside), "-lpthread"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        except (OSError, subprocess.SubprocessError) as error:
            raise BurnError(f"the C compiler {compiler[0]} cannot be run: {one_line(error)}") from error
        if done.returncode:
            reason = one_line(done.stderr, 200) if done.stderr.strip() else f"exit status {done.returncode}"
            raise BurnError(f"the C compiler failed: {shlex.join(command)}: {reason}")


def compiler() -> list[str]:
    """The command of a C compiler: that of CC, cc, gcc or clang, else zig's. Raises BurnError where there is none."""
    try:
        named = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        raise BurnError(f"CC={os.environ['CC']}: not the words of a command ({error})") from error
    for command in [named] if named else [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(command[0]):
            return command
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc", "-mcpu=baseline"]  # else zig takes this CPU for all
    raise BurnError(_MISSING)


def _built() -> Path:
    command = compiler()
    system = (platform.system(), platform.machine(), platform.libc_ver())
    content = hashlib.sha256(repr((command, FLAGS, system)).encode())
    for name in SOURCES:
        content.update((_HERE / name).read_bytes())
    folder = cache_folder()
    path = folder / f"libburn-{content.hexdigest()[:16]}.so"
    if not path.is_file():
        try:
            build(path, command)
        except OSError as error:
            raise BurnError(
                f"{folder}: the 1-bit kernels cannot be kept there ({error.strerror}); set XDG_CACHE_HOME to a folder "
                "that can be written"
            ) from error
    return path
