"""Train a binary network without labels: `accelerate launch train_burn.py --help`.

The loop from top to bottom. Everything random is a function of (seed, stage, step), so a run that was killed and
resumed ends in the same weights as one that was not.
"""

import argparse
import contextlib
import json
import logging
import sys
import time
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from timm.layers import convert_sync_batchnorm

from burn_timm.data.datasets import open_dataset
from burn_timm.data.device_views import DeviceViews
from burn_timm.data.loader import CorruptLog, make_train_loader, micro_steps_per_epoch, seed_for
from burn_timm.data.views import make_view, make_views
from burn_timm.errors import BurnError
from burn_timm.evals.results import git_commit, hardware, peak_memory, redact_tree, versions
from burn_timm.files import atomic_write, remove_leftovers
from burn_timm.hub.push import check_target, push_folder
from burn_timm.methods import METHODS
from burn_timm.nn import weights_held
from burn_timm.schedules import lr_at
from burn_timm.training import speed
from burn_timm.training.arrivals import Arrivals
from burn_timm.training.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from burn_timm.training.clock import Clock
from burn_timm.training.demo import run_demo
from burn_timm.training.export import describe, export
from burn_timm.training.guards import TargetMonitor, check_finite
from burn_timm.training.kept_teacher import keep_teacher
from burn_timm.training.logs import RunLog, draw_curves
from burn_timm.training.measure import accuracy_during_training, knn_figures, open_val
from burn_timm.training.networks import build_method, build_teacher, view_size
from burn_timm.training.optimizer import make_optimizer
from burn_timm.training.options import defining_options, parse_options
from burn_timm.training.processes import (
    choose_output,
    default_threads,
    leave_processes,
    make_accelerator,
    on_main_process,
)

_logger = logging.getLogger("burn_timm")

PUSHED = "pushed.json"  # of a run: its last push, which a resumed one may replace


def main(argv: list[str] | None = None) -> dict:
    """Run with `argv` and return what was written to summary.json. Bad input ends the process with code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("burn_timm").setLevel(logging.INFO)
    argv = sys.argv[1:] if argv is None else argv
    try:
        args = parse_options(argv or ["--demo"])
        return run_demo(args, choose_output(args), train) if args.demo else train(args)
    except (BurnError, OSError) as error:
        sys.stderr.write(f"train_burn.py: error: {error}\n")  # whole, where several processes write at once
    finally:  # behind the error, whose traceback holds the network
        leave_processes()
    sys.exit(2)


def train(args: argparse.Namespace) -> dict:
    """One run, all stages: train, export, measure. Returns the summary."""
    with contextlib.ExitStack() as at_end:
        return train_stages(args, at_end)


def train_stages(args: argparse.Namespace, at_end: contextlib.ExitStack) -> dict:
    clock = Clock()
    output = choose_output(args)
    accelerator = make_accelerator(args.log_with, output)
    device, processes, rank = accelerator.device, accelerator.num_processes, accelerator.process_index
    torch.set_num_threads(args.threads or default_threads())
    if args.sync_bn and device.type == "cpu":
        raise BurnError("--sync-bn needs GPUs: torch has no synchronised BatchNorm on a CPU")
    if args.push_to_hub:  # now, not after days of training; and the card needs the whole name
        try:
            args.push_to_hub = on_main_process(lambda: check_target(args.push_to_hub, output / PUSHED))
        except BurnError as error:
            raise BurnError(f"--push-to-hub {error}") from error
    output.mkdir(parents=True, exist_ok=True)

    # Data and teacher.
    method_class = METHODS[args.method]
    source = open_dataset(
        args.dataset, args.data_dir, args.train_split, args.input_key, args.target_key, args.dataset_download,
    )
    if method_class.needs_labels and not source.labelled:
        raise BurnError(f"--method {args.method} needs labels; {source.description}")
    if source.streaming and rank == 0:
        _logger.warning(
            f"{source.description}: a stream. A resumed run sees other images than an unbroken one, so its weights are "
            "not the same; images that cannot be read are skipped without being counted"
        )
    images = source  # that the views are made of; everything else sees them in full
    if args.cache != "auto":
        images = source.cached(args.cache, args.cache_size, args.cache_dir)
        source = source if args.cache_size else images
    val = open_val(args, source)
    watched = {"knn": args.knn_steps, "linear": args.linear_steps}  # accuracies during training: every so many steps
    for task, every in watched.items():
        if every and val is None:
            raise BurnError(
                f"--{task}-steps needs labels: a --train-split and a --val-split that have them, and no stream"
            )
    teacher, teacher_identity = build_teacher(args)
    side = view_size(args, teacher)
    view = make_views(args.view, side, args.hflip, args.train_interpolation)
    if teacher is not None and len(set(teacher.size)) == 1:
        args.teacher_img_size = teacher.size[0]  # what is in force is what summary and checkpoint hold
    args.small_img_size = args.small_img_size or max(1, round(side * 3 / 7))
    small_view = make_view(method_class.small_view, args.small_img_size, args.hflip, args.train_interpolation)
    accum, per_process = args.grad_accum_steps, args.batch_size
    total_batch = per_process * processes * accum
    steps_per_epoch = micro_steps_per_epoch(len(source), per_process, processes) // accum
    if steps_per_epoch == 0:
        raise BurnError(f"{len(source)} images do not fill one step of {total_batch}; lower --grad-accum-steps")
    total_steps = args.epochs * steps_per_epoch
    if args.max_steps:
        total_steps = min(total_steps, args.max_steps)
    warmup_steps = round(args.warmup_epochs * steps_per_epoch)
    stage_epochs = total_steps / steps_per_epoch

    speed.choose(args, device, accelerator.mixed_precision, total_steps, rank == 0)

    kept = keep_teacher(args, images, teacher, teacher_identity, accelerator) if args.cache_teacher else None

    # Where to begin.
    identity = {
        "options": defining_options(args), "teacher": teacher_identity, "images": len(source), "processes": processes,
        "mixed_precision": accelerator.mixed_precision, "device": device.type,
    }
    found = find_checkpoint(args.resume, output)
    resumed = load_checkpoint(found, identity) if found else None
    corrupt = CorruptLog(len(source))
    if resumed:
        corrupt.load_state_dict(resumed.corrupt)
        clock.earlier = resumed.seconds
    first_step = resumed.stage * total_steps + resumed.step if resumed else 0
    checkpoint_path = output / "checkpoint.pt"
    if accelerator.is_main_process:
        remove_leftovers(checkpoint_path)
    if args.log_with != "none":
        accelerator.init_trackers("burn_timm", config=flat(identity["options"]))
    log = RunLog(accelerator, output, len(args.stages) * total_steps, first_step, args.log_with != "none")
    at_end.callback(log.close)  # an error message gets a line of its own, behind the progress bar
    if accelerator.is_main_process:
        where = f" from step {first_step}" if resumed else ""
        _logger.info(
            f"{args.method} on {source.description}: {' -> '.join(args.stages)}, {total_steps} steps a stage{where}; "
            f"batch {per_process} per process x {processes} processes x {accum} accumulated = {total_batch}; {output}"
        )

    monitor = TargetMonitor()
    arrivals = Arrivals(lag=2 if device.type == "cuda" else 0)  # a step asks twice: what is checked, what is logged
    last_good = f"{found} (step {first_step})" if found else "none yet"
    carried = resumed.method if resumed else None
    for stage_index, stage in enumerate(args.stages):
        if resumed and stage_index < resumed.stage:
            continue
        method = build_method(args, stage, stage_index, teacher, source.num_classes, stage_epochs)
        if kept is not None and (method.n_views > 1 or method.n_small_views):
            raise BurnError(f"--cache-teacher: this setting of {args.method} takes several views of an image")
        step = 0
        if carried is not None:
            if resumed and resumed.step:  # in the middle of this stage
                method.load_state_dict(carried)
                step = resumed.step
            else:  # at its beginning
                method.hand_over(carried, args.reset_target_head)
        method = speed.apply(method, args)
        if args.sync_bn and processes > 1:
            for name, child in method.named_children():
                if name != "teacher":  # frozen: its statistics are constants
                    setattr(method, name, convert_sync_batchnorm(child))
        plain = method
        decay = args.weight_decay[stage_index if len(args.weight_decay) > 1 else 0]
        method = method.to(device).train()
        method, optimizer = accelerator.prepare(method, make_optimizer(args, method, decay))
        if step:
            optimizer.load_state_dict(resumed.optimizer)
            if accelerator.scaler is not None and resumed.scaler is not None:
                accelerator.scaler.load_state_dict(resumed.scaler)
        resumed = None
        batches = iter(make_train_loader(
            images, view, n_views=plain.n_views, small_view=small_view, n_small_views=plain.n_small_views,
            batch_size=per_process, seed=seed_for(args.seed, stage_index),
            rank=rank, world_size=processes, start_micro_step=step * accum,
            micro_steps_per_epoch=steps_per_epoch * accum, total_micro_steps=total_steps * accum,
            workers=args.workers, pin_memory=device.type == "cuda", views_on=args.views_on, teacher_cache=kept,
        ))
        device_views = None
        if args.views_on == "device":
            device_views = DeviceViews(view, plain.n_views, small_view, plain.n_small_views)
        log.restart_clock()

        def save(stage: int, step: int, start_of_stage: bool = False) -> None:
            corrupt.merge(gather_object(corrupt.indices), source)  # every process's finds, before they are saved
            if accelerator.is_main_process:
                Checkpoint(
                    stage=stage, step=step, method=plain.state_dict(),  # noqa: B023 - called within this stage
                    optimizer=None if start_of_stage else optimizer.state_dict(),  # noqa: B023
                    scaler=accelerator.scaler.state_dict() if accelerator.scaler else None,
                    corrupt=corrupt.state_dict(), identity=identity, seconds=clock.read(),
                ).save(checkpoint_path)

        while step < total_steps:
            progress = step / total_steps
            lr = lr_at(step, total_steps, args.lr, warmup_steps, args.sched)
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get("lr_scale", 1.0)
            torch.manual_seed(seed_for(args.seed, stage_index, step, rank))  # dropout

            outputs = []
            with weights_held(plain):
                for micro in range(accum):
                    with log.waiting():
                        batch = next(batches)
                    corrupt.add(batch.pop("corrupt"), source)
                    if device_views is not None:
                        batch = device_views(batch, device)
                    batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
                    with accelerator.no_sync(method) if micro < accum - 1 else contextlib.nullcontext():
                        with accelerator.autocast():
                            values = method(batch, progress)
                        accelerator.backward(values["loss"] / accum)
                    outputs.append({name: detached(value, device) for name, value in values.items()})

            tasks = [task for task, every in watched.items() if every and (step + 1) % every == 0]
            logged = (step + 1) % args.log_interval == 0 or step + 1 == total_steps or tasks
            accelerator.unscale_gradients(optimizer)
            checked, norms = outputs, {}
            if accelerator.scaler is None:  # a gradient scaler skips steps with infinite gradients by itself
                checked = [{**values, "grad_norm": grad_norm(plain, device)} for values in outputs]
            if logged:
                norms = {
                    f"grad_norm_{name}": grad_norm(module, device) for name, module in plain.gradient_groups().items()
                }
            now = stage_index * total_steps + step + 1
            arrivals.add(stacked(checked), partial(check_all_finite, list(checked[0]), now, last_good))
            if args.clip_grad:
                torch.nn.utils.clip_grad_norm_(plain.parameters(), args.clip_grad)
            optimizer.step()
            optimizer.zero_grad()
            plain.after_step(progress)
            step += 1
            log.step(total_batch)

            if logged:
                line = {"step": now, "epoch": (step - 1) // steps_per_epoch, "stage": stage}
                rest = {"lr": lr, "batch_size": per_process, "total_batch_size": total_batch}
                if tasks:
                    with log.paused(), clock.paused():
                        rest |= on_main_process(
                            partial(accuracy_during_training, args, source, val, plain.student(), device, tasks)
                        )
                numbers = torch.cat([average(outputs, accelerator), stacked([norms])[0]])
                arrivals.add(numbers, partial(write_line, log, monitor, progress, line, [*outputs[0], *norms], rest))
            due = step % steps_per_epoch == 0 or (args.checkpoint_steps and step % args.checkpoint_steps == 0)
            if due and step < total_steps:
                arrivals.flush()  # what is not finite must not become the last good checkpoint
                save(stage_index, step)
                last_good = f"{checkpoint_path} (step {stage_index * total_steps + step})"
        arrivals.flush()
        carried = {name: tensor.cpu().clone() for name, tensor in plain.state_dict().items()}
        save(stage_index + 1, 0, start_of_stage=True)
        last_good = f"{checkpoint_path} (step {(stage_index + 1) * total_steps})"
        del batches  # and with it the loader's processes
        optimizer = None
        accelerator.free_memory()

    if carried is not None and first_step == len(args.stages) * total_steps:  # resumed behind the last step
        last = len(args.stages) - 1
        plain = build_method(args, args.stages[-1], last, teacher, source.num_classes, stage_epochs).to(device)
        plain.load_state_dict(carried)
    log.close()

    summary = on_main_process(
        lambda: finish(args, output, plain, teacher, source, val, corrupt, total_batch, accelerator, clock)
    )
    accelerator.wait_for_everyone()  # before any of them ends the process group
    for tracker in accelerator.trackers:  # not end_training(): the demonstration trains twice in one process group
        tracker.finish()
    return summary if accelerator.is_main_process else {}


def finish(args, output, method, teacher, source, val, corrupt, total_batch, accelerator, clock) -> dict:
    """Export, then measure and write the figures into card, picture and summary.json; on the main process."""
    stage = args.stages[-1]
    # As anyone who loads the export has it.
    trained = method.student().eval().to(memory_format=torch.contiguous_format)
    classifier = method.classifier()
    summary = redact_tree({
        "model": args.model, "stages": args.stages, "method": args.method, "teacher": args.teacher,
        "teacher_checkpoint": args.teacher_checkpoint, "teacher_pretrained": args.teacher_pretrained,
        "dataset": source.description, "img_size": args.img_size, "epochs": args.epochs, "max_steps": args.max_steps,
        "batch_size": args.batch_size, "total_batch_size": total_batch, "seed": args.seed,
        "export_img_size": args.export_img_size,
        "processes": accelerator.num_processes, "mixed_precision": accelerator.mixed_precision,
        "corrupt_images": len(corrupt.state_dict()["indices"]),
        "val_dataset": val.description if val is not None else None,
        "command": args.command, "settings": defining_options(args),
        "commit": git_commit(), "hardware": hardware(), "versions": versions(),
        **clock.read(),
        "peak_memory_bytes": peak_memory(accelerator.device),
    })
    # First: whatever fails below, the weights are there.
    summary.update(export(trained, args, stage, output, classifier))
    draw_curves(output / "log.jsonl", output / "curves.png")
    describe(output / "export", summary, output / "curves.png", args.push_to_hub)
    try:
        summary.update(knn_figures(args, stage, source, val, trained, teacher, accelerator))
    except BurnError as error:
        _logger.warning(f"no kNN figures: {error}")
    summary["seconds"] = round(time.perf_counter() - clock.started, 1)
    with atomic_write(output / "summary.json") as beside:
        beside.write_text(json.dumps(summary, indent=2) + "\n")
    describe(output / "export", summary, output / "curves.png", args.push_to_hub)
    if args.push_to_hub:
        try:
            _logger.info(f"pushed to {push_folder(output / 'export', args.push_to_hub, record=output / PUSHED)}")
        except BurnError as error:
            raise BurnError(f"--push-to-hub {error}") from error
    _logger.info(f"wrote {output}/export, summary.json, curves.png, log.jsonl")
    return summary


def flat(options: dict) -> dict:
    """Options as trackers take them: numbers and strings."""
    return {name: value if isinstance(value, (int, float, str)) else str(value) for name, value in options.items()}


def detached(value: torch.Tensor | float, device: torch.device) -> torch.Tensor:
    """A scalar, in float64 where the device has it, on the device."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    if isinstance(value, torch.Tensor):
        return value.detach().to(device, dtype)
    return torch.full((), value, dtype=dtype, device=device)  # not copied there, which could wait


def grad_norm(module: torch.nn.Module, device: torch.device) -> torch.Tensor:
    grads = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return detached(torch.nn.utils.get_total_norm(grads) if grads else 0.0, device)


def stacked(outputs: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Scalars to `[batches, names]`."""
    return torch.stack([torch.stack(list(values.values())) for values in outputs])


def average(outputs: list[dict[str, torch.Tensor]], accelerator: Accelerator) -> torch.Tensor:
    """Mean of each scalar over accumulated batches and processes: `[names]`."""
    means = stacked(outputs).mean(0)
    return accelerator.reduce(means, reduction="mean") if accelerator.num_processes > 1 else means


def check_all_finite(names: list[str], step: int, last_good: str, rows: list[list[float]]) -> None:
    for numbers in rows:
        check_finite(dict(zip(names, numbers, strict=True)), step, last_good)


def write_line(
    log: RunLog, monitor: TargetMonitor, progress: float, line: dict, names: list[str], rest: dict,
    numbers: list[float],
) -> None:
    line |= dict(zip(names, numbers, strict=True)) | rest
    if "target_information" in line and line["lambda"] < 1 and log.main:  # at 1 the KL has no weight
        monitor.update(line["target_information"], line["step"], progress)
    log.write(line)


if __name__ == "__main__":
    main()
