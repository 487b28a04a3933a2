"""How long a run has worked, whatever the number of times that it was killed and resumed."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Begins when it is made.

    Attributes: `started` (of `time.perf_counter`), `earlier` (what a checkpoint had kept: seconds of the processes
    before this one whose work it holds).
    """

    def __init__(self, earlier: dict[str, float] | None = None):
        self.started, self._cpu_started = time.perf_counter(), time.process_time()
        self.earlier = earlier or {}
        self._paused, self._cpu_paused = 0.0, 0.0

    def read(self) -> dict[str, float]:
        """`train_seconds` by the wall's clock and `cpu_seconds` of the main process, without pauses, with `earlier`."""
        now = {
            "train_seconds": time.perf_counter() - self.started - self._paused,
            "cpu_seconds": time.process_time() - self._cpu_started - self._cpu_paused,
        }
        return {name: round(seconds + self.earlier.get(name, 0.0), 1) for name, seconds in now.items()}

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time inside does not count."""
        before, cpu_before = time.perf_counter(), time.process_time()
        yield
        self._paused += time.perf_counter() - before
        self._cpu_paused += time.process_time() - cpu_before
