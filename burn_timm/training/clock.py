"""How long a run has worked, whatever the number of times that it was killed and resumed."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Seconds of work, without pauses. Begins when it is made.

    Attributes: `begun` (of `time.perf_counter`), `earlier` (what a checkpoint had kept: seconds of the processes before
    this one whose work it holds).
    """

    def __init__(self, earlier: dict[str, float] | None = None):
        self.begun = time.perf_counter()
        self.earlier = earlier or {}
        self._wall, self._cpu = self.begun, time.process_time()

    def read(self) -> dict[str, float]:
        """`train_seconds` by the wall's clock and `cpu_seconds` of the main process, with `earlier`."""
        now = {"train_seconds": self.worked(), "cpu_seconds": time.process_time() - self._cpu}
        return {name: round(seconds + self.earlier.get(name, 0.0), 1) for name, seconds in now.items()}

    def worked(self) -> float:
        """Seconds of this process by the wall's clock."""
        return time.perf_counter() - self._wall

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time inside does not count."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self._wall += time.perf_counter() - wall
        self._cpu += time.process_time() - cpu
