"""Decoded images kept in memory or in a file, shared by forked loader workers.

There is no lock: an entry counts only if its checksum is right, so one that another process is still writing, or was
when it was killed, is simply a miss.
"""

import errno
import hashlib
import logging
import mmap
import os
import re
import shutil
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from burn_timm.errors import BurnError

if TYPE_CHECKING:
    from burn_timm.data.sources import ImageSource

CACHES = ("auto", "off", "memory", "disk")
MOST_BYTES = 512 * 2**20
_SAMPLES = 16  # images that are read to learn size, space and identity of a dataset
_ASPECT = 2  # images of differing sizes get room for so many squares of the shorter side; longer ones are not kept
_PAGE = 4096

_logger = logging.getLogger(__name__)


class PixelCache:
    """uint8 [h, w, 3] of `count` images with a target each, filled as images are first read, by whoever reads them.

    All images are `height` x `width`, or with `ragged` of any size of at most as many pixels. The memory is anonymous
    and shared (not /dev/shm, which is 64 MB in many containers), and is taken page by page as it fills. A pickled copy
    (workers started by spawn or forkserver) starts empty and is its own.
    """

    def __init__(self, count: int, height: int, width: int, ragged: bool = False) -> None:
        self.shape = (count, height, width, 3)
        self.ragged = ragged
        room = height * width * 3
        self._pixels = np.frombuffer(mmap.mmap(-1, count * room), np.uint8).reshape(count, room)
        self._marks = np.frombuffer(mmap.mmap(-1, count * 32), np.int64).reshape(count, 4)

    @staticmethod
    def fits(count: int, height: int, width: int) -> bool:
        """Whether `count` RGB images of this size take at most 512 MB."""
        return 0 < count * height * width * 3 <= MOST_BYTES

    def get(self, index: int) -> tuple[np.ndarray, int] | None:
        """The pixels [h, w, 3] (perhaps a view of the shared memory: copy before changing) and target, or None."""
        checksum, target, height, width = self._mark(index)
        if not checksum or not self._takes(height, width):
            return None
        pixels = self._read(index, height * width * 3)
        if pixels.size != height * width * 3 or checksum != _checksum(pixels, target, height, width):
            return None
        return pixels.reshape(height, width, 3), target

    def put(self, index: int, pixels: np.ndarray, target: int) -> None:
        """Store an image [h, w, 3]; one of a size that has no room here is left out."""
        height, width = pixels.shape[:2]
        if self._takes(height, width):
            mark = (_checksum(pixels, target, height, width), target, height, width)
            self._write(index, np.ascontiguousarray(pixels).reshape(-1), np.array(mark, np.int64))

    def _takes(self, height: int, width: int) -> bool:
        if not self.ragged:
            return (height, width) == self.shape[1:3]
        return height > 0 and width > 0 and height * width <= self.shape[1] * self.shape[2]

    def _mark(self, index: int) -> list[int]:
        return self._marks[index].tolist()

    def _read(self, index: int, size: int) -> np.ndarray:
        return self._pixels[index, :size]

    def _write(self, index: int, pixels: np.ndarray, mark: np.ndarray) -> None:
        self._pixels[index, : pixels.size] = pixels
        self._marks[index] = mark

    def __getstate__(self) -> tuple:
        return (*self.shape[:3], self.ragged)

    def __setstate__(self, state: tuple) -> None:
        self.__init__(*state)


class DiskCache(PixelCache):
    """The same in a file, which other processes and later runs use too; what was read last the system has in memory.

    The file is sparse and has no header: a new one is all misses, and it grows as it fills. It is read and written by
    position, not mapped: on a full disk a write to mapped memory would kill the process.
    """

    def __init__(self, path: str, count: int, height: int, width: int, ragged: bool = False) -> None:
        self.path, self.shape, self.ragged = path, (count, height, width, 3), ragged
        self._record = 32 + height * width * 3
        if ragged:  # what an entry leaves free shall be whole blocks, which then take no space
            self._record = -(-self._record // _PAGE) * _PAGE
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if os.fstat(self._file).st_size < count * self._record:
            os.truncate(self._file, count * self._record)
        self._full = False

    def _mark(self, index: int) -> list[int]:
        return np.frombuffer(os.pread(self._file, 32, index * self._record), np.int64).tolist()

    def _read(self, index: int, size: int) -> np.ndarray:
        return np.frombuffer(os.pread(self._file, size, index * self._record + 32), np.uint8)

    def _write(self, index: int, pixels: np.ndarray, mark: np.ndarray) -> None:
        if self._full:
            return
        try:
            os.pwrite(self._file, mark.tobytes() + pixels.tobytes(), index * self._record)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            self._full = True
            _logger.warning("%s cannot grow (%s): the other images are read anew each time", self.path, error.strerror)

    def __getstate__(self) -> tuple:
        return (self.path, *super().__getstate__())

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


def open_cache(kind: str, source: "ImageSource", side: int | None, folder: str | None) -> PixelCache | None:
    """A `memory` or `disk` cache for a source that has none; `side` says that it gives images of that shorter side.

    The file in `folder` is named by the dataset: its description, its list of files if it has one, and the pixels of
    some images. None if no image can be read. Raises BurnError for images of several sizes without `side`, and for too
    little space.
    """
    count, bytes_seen, sizes = len(source), [], set()
    known = hashlib.sha256(repr((source.description, source.class_names, source.listing(), side)).encode())
    for index in sorted({place * (count - 1) // (_SAMPLES - 1) for place in range(_SAMPLES)}):
        try:
            image, target = source.load(index)
        except Exception:  # an unreadable image is the training loop's business
            continue
        sizes.add((image.height, image.width))
        bytes_seen.append(image.height * image.width * 3)
        known.update(repr((index, target, image.size)).encode() + image.tobytes())
    if not sizes:
        return None
    if side is None and len(sizes) > 1:
        raise BurnError(f"--cache {kind}: images of several sizes ({source.description}); give --cache-size PIXELS")
    room = (*((side, side * _ASPECT) if side else sizes.pop()), side is not None)
    needed = count * sum(bytes_seen) // len(bytes_seen)
    if kind == "memory":
        return _in_memory(count, room, needed)
    title = re.sub("[^A-Za-z0-9]+", "-", source.description)[:60]
    path = cache_folder(folder) / f"{title}-{known.hexdigest()[:16]}.pixels"
    return _on_disk(path, count, room, needed)


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """The image with its shorter side reduced to `side` pixels, bicubically; a smaller one as it is."""
    shorter = min(image.size)
    if shorter <= side:
        return image
    return image.resize([side * length // shorter for length in image.size], Image.Resampling.BICUBIC)


def _in_memory(count: int, room: tuple, needed: int) -> PixelCache:
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    free = _free_memory()
    told = f"--cache memory needs about {_size(needed * processes)} for {count:,} images"
    told += f" in each of {processes} processes" if processes > 1 else ""
    hint = "take --cache disk or a smaller --cache-size"
    if free is not None and needed * processes > free:
        raise BurnError(f"{told}, {_size(free)} of memory is free; {hint}")
    try:
        return PixelCache(count, *room)
    except (OSError, OverflowError, ValueError) as error:
        raise BurnError(f"{told}, which the system refuses ({error}); {hint}") from error


def _on_disk(path: Path, count: int, room: tuple, needed: int) -> DiskCache:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        filled = path.stat().st_blocks * 512 if path.exists() else 0
        free = shutil.disk_usage(path.parent).free
        if needed - filled > free:
            raise BurnError(
                f"--cache disk needs about {_size(needed - filled)} for {count:,} images, {_size(free)} is free in "
                f"{path.parent}; take another --cache-dir or a smaller --cache-size"
            )
        return DiskCache(str(path), count, *room)
    except OSError as error:
        raise BurnError(f"--cache disk: {path}: {error.strerror or error}; choose another --cache-dir") from error


def cache_folder(folder: str | None) -> Path:
    if folder:
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "burn_timm"


def _free_memory() -> int | None:
    """Bytes that the system says it can give away, None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _checksum(pixels: np.ndarray, *numbers: int) -> int:
    crc = zlib.crc32(np.ascontiguousarray(pixels))
    return zlib.crc32(np.array(numbers, np.int64), crc) | 1 << 32  # never 0, which means empty
