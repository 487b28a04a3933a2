"""Collectives that a loss needs so that several processes compute what one process with the whole batch would.

Each assumes equal batches and that gradients are averaged over processes afterwards, as DistributedDataParallel does.
Without an initialised process group each is the identity.
"""

import torch
import torch.distributed as dist


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(x: torch.Tensor) -> torch.Tensor:
    """The sum of `x` over processes, same shape, without gradient."""
    x = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def mean_over_processes(x: torch.Tensor) -> torch.Tensor:
    """The mean of `x` over processes, same shape.

    The value is global, the gradient flows into the local `x` with weight 1: averaging it over processes afterwards
    supplies the 1 / world size.
    """
    if world_size() == 1:
        return x
    return sum_over_processes(x) / world_size() + (x - x.detach())


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


def gather_over_processes(x: torch.Tensor) -> torch.Tensor:
    """`[B, D]` of every process as `[B * world size, D]`, in rank order, differentiable into every process's part."""
    return x if world_size() == 1 else _Gather.apply(x)


def most_exact(device: torch.device) -> torch.dtype:
    """float64, but float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0
