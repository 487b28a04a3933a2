"""Images that cannot be read: one warning each, counted, and an error when there are too many."""

import logging
from collections.abc import Iterable

import torch

from burn_timm.data.sources import ImageSource
from burn_timm.errors import BurnError

_logger = logging.getLogger(__name__)
MOST_CORRUPT = 0.01


class CorruptLog:
    """The distinct corrupt images of a run over a dataset of `total` images."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._seen: set[int] = set()

    def __len__(self) -> int:
        return len(self._seen)

    @property
    def indices(self) -> list[int]:
        """The corrupt images' indices, sorted."""
        return sorted(self._seen)

    def add(self, corrupt: torch.Tensor, source: ImageSource) -> None:
        """Take in the `corrupt` entry of a micro-batch: int64 of any shape, possibly empty; negative entries mean none.

        Warns once for each new image, with the reason. Raises BurnError when more than 1 % of `total` distinct images
        are corrupt.
        """
        new = [index for index in dict.fromkeys(corrupt.flatten().tolist()) if index >= 0 and index not in self._seen]
        self.merge(new, source)
        for index in new:
            _logger.warning("skipped %s: it cannot be read (%s)", source.name(index), source.why_unreadable(index))

    def merge(self, indices: Iterable[int], source: ImageSource) -> None:
        """Take in what other processes found; each of them has warned of its own. Raises BurnError as `add` does."""
        self._seen.update(indices)
        check_corrupt(self.indices, self.total, source)

    def state_dict(self) -> dict:
        """`{"total": int, "indices": list of int}`."""
        return {"total": self.total, "indices": self.indices}

    def load_state_dict(self, state: dict) -> None:
        """Restore; the images in it are not warned of again."""
        self.total = int(state["total"])
        self._seen = {int(index) for index in state["indices"]}


def check_corrupt(indices: list[int], total: int, source: ImageSource) -> None:
    """Raise BurnError, with the first names and reasons, if the corrupt images are more than 1 % of `total`."""
    if len(indices) <= MOST_CORRUPT * total:
        return
    names = ", ".join(f"{source.name(index)}: {source.why_unreadable(index)}" for index in indices[:3])
    more = ", ..." if len(indices) > 3 else ""
    raise BurnError(
        f"at least {len(indices)} of {total} images cannot be read, more than {MOST_CORRUPT:.0%}: {names}{more}; "
        "repair or remove them"
    )
