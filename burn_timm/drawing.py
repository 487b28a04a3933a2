"""Pictures, drawn by matplotlib."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from .files import atomic_write


@contextlib.contextmanager
def picture(path: str | os.PathLike, width: float, height: float, layout: str | None = "constrained") -> Iterator[Any]:
    """Yield an empty figure of so many inches; it is written to a PNG, whole or not at all, if the block succeeds."""
    from matplotlib.figure import Figure  # here, because it takes a second to import

    figure = Figure(figsize=(width, height), layout=layout)
    yield figure
    with atomic_write(path) as beside:  # `tight`: a legend may be wider than its panel
        figure.savefig(beside, format="png", dpi=110, bbox_inches="tight" if layout else None)
