"""numba's threads beside torch's."""

import numba
import torch


def use_threads(count: int | None) -> int:
    """Let parallel kernels run on `count` threads (None: all cores; no more than these); returns how many it is.

    numba's OpenMP layer changes the default of the whole process when it starts: torch keeps the number that it has.
    """
    most = numba.config.NUMBA_NUM_THREADS
    count = most if count is None else min(count, most)
    before = torch.get_num_threads()
    numba.set_num_threads(count)
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)
    return count
