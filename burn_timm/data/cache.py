"""Decoded images kept in memory or in a file, shared by forked loader workers.

There is no lock: an entry counts only if its checksum is right, so one that another process is still writing, or was
when it was killed, is simply a miss.
"""

import errno
import hashlib
import logging
import os
import re
import shutil
import tempfile
import zlib

import numpy as np
import psutil  # accelerate needs it
from PIL import Image

from burn_timm.errors import BurnError
from burn_timm.files import cache_folder

CACHES = ("auto", "off", "memory", "disk")
MOST_BYTES = 512 * 2**20
SAMPLES = 16  # images that are read to learn size, space and identity of a dataset
_ASPECT = 2  # images of differing sizes get room for so many squares of the shorter side; longer ones are not kept
_PAGE = 4096
_MARK = 24  # bytes before the pixels: checksum, height and width
_VERSION = 3  # of what a file holds: raise it when its layout or `decode` changes
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM)

_logger = logging.getLogger(__name__)


class PixelCache:
    """uint8 [h, w, 3] of `count` images of at most `pixels` pixels, filled as they are first read, by whoever reads.

    They lie in the file `path`, which other processes and later runs use too, or without one in memory that forked
    processes share (not in /dev/shm, which is 64 MB in many containers). A pickled copy (workers started by spawn or
    forkserver) of a cache in memory starts empty and is its own.

    The file is sparse and has no header: a new one is all misses, and it grows as it fills. It is read and written by
    position, not mapped: on a full disk a write to mapped memory would kill the process.
    """

    def __init__(self, count: int, pixels: int, path: str | None = None) -> None:
        self._arguments = (count, pixels, path)
        self._pixels, self.path = pixels, path
        self._record = _MARK + 3 * pixels
        if self._record > 4 * _PAGE:  # what an entry leaves free shall be whole blocks, which then take no space
            self._record = -(-self._record // _PAGE) * _PAGE
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666) if path else _file_in_memory()
        if os.fstat(self._file).st_size < count * self._record:
            os.truncate(self._file, count * self._record)
        self._full = False

    def get(self, index: int) -> np.ndarray | None:
        """The pixels [h, w, 3] (read-only), or None."""
        at = index * self._record
        checksum, height, width = np.frombuffer(os.pread(self._file, _MARK, at), np.int64).tolist()
        if not checksum or min(height, width) <= 0 or height * width > self._pixels:
            return None
        content = os.pread(self._file, height * width * 3, at + _MARK)
        if len(content) != height * width * 3 or checksum != _checksum(content, height, width):
            return None
        return np.frombuffer(content, np.uint8).reshape(height, width, 3)

    def put(self, index: int, pixels: np.ndarray) -> None:
        """Store an image [h, w, 3]; one that is too large is left out."""
        height, width = pixels.shape[:2]
        if self._full or height * width > self._pixels:
            return
        content = pixels.tobytes()
        mark = np.array((_checksum(content, height, width), height, width), np.int64)
        try:
            os.pwrite(self._file, mark.tobytes() + content, index * self._record)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self._full = True
            _logger.warning(
                "%s cannot grow (%s): the other images are read anew each time", self.path or "the cache in memory",
                error.strerror,
            )

    def __reduce__(self) -> tuple:
        return PixelCache, self._arguments

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


def small_cache(source) -> PixelCache | None:
    """A cache in memory for an `ImageSource` whose first, middle and last image have one size, if all take 512 MB."""
    sizes = {image.size for _, image in samples(source, 3)}
    if len(sizes) != 1:
        return None
    width, height = sizes.pop()
    return PixelCache(len(source), height * width) if len(source) * height * width * 3 <= MOST_BYTES else None


def open_cache(kind: str, source, side: int | None, folder: str | None) -> PixelCache | None:
    """A `memory` or `disk` cache for an `ImageSource` without one; `side` says that it gives images of that shorter
    side.

    The file in `folder` is named by the dataset: its description, its list of files if it has one and when they were
    changed, and the pixels of some images. None if no image can be read. Raises BurnError for images of several sizes
    without `side`, and for too little space.
    """
    images = samples(source, SAMPLES)
    if not images:
        return None
    sizes = {image.size for _, image in images}
    if side is None and len(sizes) > 1:
        raise BurnError(f"--cache {kind}: images of several sizes ({source.description}); give --cache-size PIXELS")
    width, height = (side, side * _ASPECT) if side else sizes.pop()
    needed = len(source) * 3 * sum(image.height * image.width for _, image in images) // len(images)
    path, processes, where, instead = None, int(os.environ.get("LOCAL_WORLD_SIZE", 1)), "memory", "--cache disk"
    if kind == "disk":
        title = re.sub("[^A-Za-z0-9]+", "-", source.description)[:60]
        path = cache_folder(folder) / f"{title}-{fingerprint(source, images, _VERSION, side)}.pixels"
        processes, where, instead = 1, path.parent, "another --cache-dir"
    told = f"--cache {kind} needs about {_size(needed * processes)} for {len(source):,} images"
    told += f" in each of {processes} processes" if processes > 1 else ""
    try:
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            needed -= path.stat().st_blocks * 512 if path.exists() else 0
        free = shutil.disk_usage(path.parent).free if path else psutil.virtual_memory().available
        if needed * processes > free:
            raise BurnError(f"{told}, {_size(free)} is free in {where}; take {instead} or a smaller --cache-size")
        return PixelCache(len(source), height * width, path and str(path))
    except (OSError, OverflowError) as error:
        raise BurnError(f"{told}; {where}: {getattr(error, 'strerror', None) or error}; take {instead}") from error


def fingerprint(source, images: list[tuple[int, Image.Image]], *key: object) -> str:
    """16 hexadecimal digits of a dataset (description, list of its images, when their files were changed, the pixels of
    `images`) and of `key`."""
    listed = source.description, source.listing_hash(), list(source.identities() or ())
    known = hashlib.sha256(repr((*listed, *key)).encode())
    for stamp in source.changed():
        known.update(b"%d " % stamp)
    for index, image in images:
        known.update(repr((index, image.size)).encode() + image.tobytes())
    return known.hexdigest()[:16]


def reduced(image: Image.Image, side: int) -> Image.Image:
    """The image with its shorter side reduced to `side` pixels, bicubically; a smaller one as it is."""
    shorter = min(image.size)
    if shorter <= side:
        return image
    return image.resize([side * length // shorter for length in image.size], Image.Resampling.BICUBIC)


def samples(source, count: int) -> list[tuple[int, Image.Image]]:
    """(index, image) of `count` images at even distances, the first and the last among them; unreadable ones left out.
    """
    places = sorted({place * (len(source) - 1) // (count - 1) for place in range(count)})
    return [(index, found[0]) for index in places if (found := source.readable(index)) is not None]


def _file_in_memory() -> int:
    """A file descriptor of memory; where the system has no such thing, of a temporary file."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("burn_timm")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _checksum(pixels: bytes, *numbers: int) -> int:
    return zlib.crc32(np.array(numbers, np.int64), zlib.crc32(pixels)) | 1 << 32  # never 0, which means empty
