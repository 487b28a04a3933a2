"""Running statistics of BatchNorm as a plain average over batches ("precise BN"), not an exponential one."""

import contextlib
from collections.abc import Iterable, Iterator

from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def averaged_statistics(norms: Iterable[_BatchNorm]) -> Iterator[None]:
    """Replace running statistics by their average over the batches that pass through `norms` inside the block.

    Every batch counts the same: `running_mean` becomes the mean of the batch means, `running_var` the mean of the
    unbiased batch variances. Layers count a batch only in training mode, which is the caller's to set. Momenta are
    afterwards what they were; the old statistics are lost, after an error too.

    Args:
        norms: Layers with running statistics.
    """
    momenta = {norm: norm.momentum for norm in norms}
    try:
        for norm in momenta:
            norm.reset_running_stats()
            norm.momentum = None  # torch's cumulative average
        yield
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
