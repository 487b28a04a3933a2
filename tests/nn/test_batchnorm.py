import pytest
import torch
from torch import nn

from burn_timm.nn.batchnorm import averaged_statistics


def test_running_statistics_are_the_plain_average_over_the_batches():
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(n, 3, 4, 4, generator=generator, dtype=torch.float64) * 3 + 1 for n in (2, 8, 5)]
    norms = [nn.BatchNorm2d(3, momentum=0.2).double(), nn.BatchNorm2d(3, momentum=0.01).double()]
    for norm in norms:
        norm(batches[0] + 7)  # what the block forgets
    with averaged_statistics(iter(norms)):
        for batch in batches:
            norms[0](batch)
            norms[1](2 * batch)
    mean = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    variance = torch.stack([batch.transpose(0, 1).flatten(1).var(1) for batch in batches]).mean(0)
    for norm, scale, momentum in zip(norms, (1, 2), (0.2, 0.01), strict=True):
        torch.testing.assert_close(norm.running_mean, scale * mean)
        torch.testing.assert_close(norm.running_var, scale**2 * variance)
        assert norm.momentum == momentum and norm.training


def test_momenta_come_back_after_an_error():
    norm = nn.BatchNorm1d(2)
    with pytest.raises(ZeroDivisionError), averaged_statistics([norm]):
        raise ZeroDivisionError
    assert norm.momentum == 0.1
