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

        Warns once for each new image. Raises BurnError when more than 1 % of `total` distinct images are corrupt.
        """
        for index in dict.fromkeys(corrupt.flatten().tolist()):
            if index >= 0 and index not in self._seen:
                self._seen.add(index)
                if too_many(len(self._seen), self.total):
                    continue  # the error below says it for all of them
                _logger.warning("skipped %s: it cannot be read", source.name(index))
        self._check(source)

    def merge(self, indices: Iterable[int], source: ImageSource) -> None:
        """Take in what other processes found; each of them has warned of its own. Raises BurnError as `add` does."""
        self._seen.update(indices)
        self._check(source)

    def _check(self, source: ImageSource) -> None:
        if too_many(len(self._seen), self.total):
            raise BurnError(too_many_message(self.indices, self.total, source))

    def state_dict(self) -> dict:
        """`{"total": int, "indices": list of int}`."""
        return {"total": self.total, "indices": self.indices}

    def load_state_dict(self, state: dict) -> None:
        """Restore; the images in it are not warned of again."""
        self.total = int(state["total"])
        self._seen = {int(index) for index in state["indices"]}


def too_many(corrupt: int, total: int) -> bool:
    """Whether `corrupt` of `total` images are more than 1 %."""
    return corrupt > MOST_CORRUPT * total


def too_many_message(indices: Iterable[int], total: int, source: ImageSource) -> str:
    """One line: the count and the first names."""
    indices = list(indices)
    names = ", ".join(source.name(index) for index in indices[:3])
    more = ", ..." if len(indices) > 3 else ""
    return (
        f"at least {len(indices)} of {total} images cannot be read, more than {MOST_CORRUPT:.0%}: {names}{more}; "
        "repair or remove them"
    )
