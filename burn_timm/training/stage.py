"""What a stage trains, fresh or from a checkpoint, and its batches from any step on."""

from collections.abc import Iterator

import torch
from timm.layers import convert_sync_batchnorm

from ..data.device_views import DeviceViews, drawn_views
from ..data.loader import ViewDataset, make_train_loader, seed_for
from ..data.views import made_views, make_view, make_views, view_groups
from ..methods.base import Method
from ..runs import understood
from . import speed
from .build import build_method, view_size
from .optimizer import make_optimizer
from .run import Run
from .state import Checkpoint
from .teacher_cache import KeptViews


def make_method(run: Run, index: int) -> Method:
    """The method of stage number `index` with fresh weights, on the run's device."""
    options, data = run.options, run.data
    method = build_method(options, options.stages[index], index, run.teacher, data.train.num_classes, run.steps.epochs)
    return method.to(run.device)


def start_stage(
    run: Run, index: int, state: Checkpoint | None,
) -> tuple[Method, torch.nn.Module, torch.optim.Optimizer]:
    """Method, the same as accelerate wraps it, and optimiser, from `state` or fresh."""
    options = run.options
    method = make_method(run, index)
    with understood(run.last_good):
        if state is not None and state.step:
            method.load_state_dict(state.method)
        elif state is not None:
            method.hand_over(state.method, options.reset_target_head)
    method = speed.apply(method, options)
    if options.sync_bn and run.accelerator.num_processes > 1:
        synchronise(method, heads_only=options.sync_bn_of == "heads")
    method.train()
    decay = options.weight_decay[index if len(options.weight_decay) > 1 else 0]
    wrapped, optimizer = run.accelerator.prepare(method, make_optimizer(options, method, decay))
    if wrapped is not method:
        settle_order_of_gradients(wrapped, method)
    if state is not None and state.step:
        with understood(run.last_good):
            optimizer.load_state_dict(state.optimizer)
    return method, wrapped, optimizer


def settle_order_of_gradients(wrapped: torch.nn.Module, method: Method) -> None:
    """One backward pass of zeros: DistributedDataParallel groups the gradients anew after its first one, in a fresh
    run and in a resumed one. Three numbers that are added in another order have another sum."""
    forward = method.forward
    method.forward = lambda: sum(parameter.sum() for parameter in method.parameters() if parameter.requires_grad) * 0.0
    wrapped().backward()
    method.forward = forward
    method.zero_grad()


def synchronise(method: Method, heads_only: bool = False) -> None:
    """Let BatchNorms of `method` have their statistics over all processes: all but the frozen teacher's, or those of
    the heads behind its networks."""
    spared = ("teacher", *(("backbone", "target_backbone", "keys") if heads_only else ()))
    for name, child in method.named_children():
        if name not in spared:
            setattr(method, name, convert_sync_batchnorm(child))


def load_batches(run: Run, method: Method, index: int, first_step: int) -> Iterator[dict[str, torch.Tensor]]:
    """The batches of a stage from `first_step` on, on the device."""
    options, steps = run.options, run.steps
    how = options.hflip, options.train_interpolation
    view = make_views(options.view, view_size(options, run.teacher), *how)
    small_view = make_view(method.small_view, options.small_img_size, *how)
    groups = view_groups(view, method.n_views, small_view, method.n_small_views)
    on_device = DeviceViews(groups) if options.views_on == "device" else None
    seed = seed_for(options.seed, index)
    if run.teacher_cache is not None:
        views = KeptViews(groups, seed, run.teacher_cache)
    else:
        views = ViewDataset(run.data.reduced, groups, seed, drawn_views if on_device else made_views)
    accumulated = options.grad_accum_steps
    loader = make_train_loader(
        views, batch_size=options.batch_size, rank=run.accelerator.process_index,
        world_size=run.accelerator.num_processes, start_micro_step=first_step * accumulated,
        micro_steps_per_epoch=steps.per_epoch * accumulated, total_micro_steps=steps.total * accumulated,
        workers=options.workers, pin_memory=run.device.type == "cuda",
    )
    for _ in range((steps.total - first_step) * accumulated):
        with run.log.waiting():
            batch = next(loader)
        run.corrupt.add(batch.pop("corrupt"), run.data.train)
        if on_device:
            batch = on_device(batch, run.device)
        yield {name: tensor.to(run.device, non_blocking=True) for name, tensor in batch.items()}
