"""Decoded images of one small size kept in memory, shared by forked loader workers."""

import mmap
import zlib

import numpy as np

MOST_BYTES = 512 * 2**20


class PixelCache:
    """uint8 [N, H, W, 3] with a target each, filled as images are first read, by whichever process reads them.

    The memory is anonymous and shared (not /dev/shm, which is 64 MB in many containers), and is taken page by page as
    it fills. There is no lock: an entry counts only if its checksum is right, so one that another process is still
    writing is simply a miss. A pickled copy (workers started by spawn or forkserver) starts empty and is its own.
    """

    def __init__(self, count: int, height: int, width: int) -> None:
        self.shape = (count, height, width, 3)
        self._pixels = np.frombuffer(mmap.mmap(-1, count * height * width * 3), np.uint8).reshape(self.shape)
        self._marks = np.frombuffer(mmap.mmap(-1, count * 16), np.int64).reshape(count, 2)  # checksum, target

    @staticmethod
    def fits(count: int, height: int, width: int) -> bool:
        """Whether `count` RGB images of this size take at most 512 MB."""
        return 0 < count * height * width * 3 <= MOST_BYTES

    def get(self, index: int) -> tuple[np.ndarray, int] | None:
        """The pixels [H, W, 3] (a view of the shared memory: copy before changing) and target, or None."""
        mark, target = self._marks[index].tolist()
        if mark and mark == _checksum(self._pixels[index], target):
            return self._pixels[index], target
        return None

    def put(self, index: int, pixels: np.ndarray, target: int) -> None:
        """Store an image [H, W, 3]; one of another size is left out."""
        if pixels.shape == self.shape[1:]:
            self._pixels[index] = pixels
            self._marks[index] = (_checksum(pixels, target), target)

    def __getstate__(self) -> tuple[int, int, int]:
        return self.shape[:3]

    def __setstate__(self, state: tuple[int, int, int]) -> None:
        self.__init__(*state)


def _checksum(pixels: np.ndarray, target: int) -> int:
    crc = zlib.crc32(np.ascontiguousarray(pixels))
    return zlib.crc32(target.to_bytes(8, "little", signed=True), crc) | 1 << 32  # never 0, which means empty
