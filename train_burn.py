"""Train a binary network without labels: `accelerate launch train_burn.py --help`.

`setup`, then `train_stage` for each stage, then `finish`. Everything random is a function of (seed, stage, step), so a
run that was killed and resumed ends in the same weights as one that was not.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from burn_timm import arguments
from burn_timm.data.loader import CorruptLog, seed_for
from burn_timm.errors import BurnError
from burn_timm.files import locked, read_lines, recover, write_json, writing
from burn_timm.hub.card import describe
from burn_timm.hub.push import check_target, push_folder
from burn_timm.methods.base import Method
from burn_timm.nn import weights_held
from burn_timm.runs import understood
from burn_timm.schedules import lr_at
from burn_timm.training.build import build_teacher, options_in_force
from burn_timm.training.centre import centre
from burn_timm.training.data import count_steps, open_data
from burn_timm.training.demo import run_demo
from burn_timm.training.export import export
from burn_timm.training.logs import Clock, RunLog, draw_curves
from burn_timm.training.measure import accuracy_during_training, knn_figures
from burn_timm.training.monitor import AsyncScalars, CollapseMonitor, check_finite, grad_norm, scalar, stacked
from burn_timm.training.options import Options, defining_options, parse_options
from burn_timm.training.processes import (
    choose_output,
    default_threads,
    join_processes,
    leave_processes,
    make_accelerator,
    on_main_process,
    require_same,
)
from burn_timm.training.run import Run
from burn_timm.training.stage import load_batches, make_method, start_stage
from burn_timm.training.state import Checkpoint, find_checkpoint, load_checkpoint
from burn_timm.training.teacher_cache import filled_cache

_logger = logging.getLogger("burn_timm")

PUSHED = "pushed.json"  # of a run: its last push, which a resumed one may replace
FILES = ("checkpoint.pt", "log.jsonl", "export", "latent.safetensors", "curves.png", "summary.json", PUSHED)


def main(argv: Sequence[str] | None = None) -> dict:
    """Run with `argv`, or the demonstration where it is empty, and return what was written to summary.json.

    Bad input ends the process with code 2.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("burn_timm").setLevel(logging.INFO)
    argv = sys.argv[1:] if argv is None else argv

    def call() -> dict:
        return train(parse_options(argv)) if argv else run_demo(train)

    try:
        again = "resume with --resume auto and the same --output" if argv else "the same command goes on"
        return arguments.run("train_burn.py", call, again)
    finally:  # behind the error, whose traceback holds the network
        leave_processes()


def train(options: Options) -> dict:
    """One run, all stages: train, export, measure. Returns the summary, empty but on the main process."""
    with contextlib.ExitStack() as at_end:
        run, state = setup(options, at_end)
        method = None
        for index in range(state.stage if state else 0, len(run.options.stages)):
            method = None  # the previous stage's makes room
            method, state = train_stage(run, index, state)
            run.accelerator.free_memory()
        if method is None:  # resumed behind the last step
            method = make_method(run, len(run.options.stages) - 1)
            with understood(run.last_good):
                method.load_state_dict(state.method)
        run.log.close()
        summary = on_main_process(lambda: finish(run, method))
        run.accelerator.wait_for_everyone()  # before any of them ends the process group
        with writing(run.output):
            for tracker in run.accelerator.trackers:  # not end_training(): the demo trains twice in one process group
                tracker.finish()
        return summary if run.accelerator.is_main_process else {}


def setup(options: Options, at_end: contextlib.ExitStack) -> tuple[Run, Checkpoint | None]:
    """Processes, data, teacher, the options in force, and the checkpoint to go on from."""
    clock = Clock()
    join_processes()
    output = choose_output(options.output, options.model)
    accelerator = make_accelerator(options.log_with, output)
    device, main_process = accelerator.device, accelerator.is_main_process
    torch.set_num_threads(options.threads or default_threads())
    if options.push_to_hub:  # now, not after days of training; and the card needs the whole name
        repo = on_main_process(lambda: pushing(check_target, options.push_to_hub, output / PUSHED))
        options = replace(options, push_to_hub=repo)
    output.mkdir(parents=True, exist_ok=True)
    on_main_process(lambda: at_end.enter_context(locked(output / ".lock", f"--output {output}")))

    data = open_data(options, tell=main_process)
    teacher, teacher_identity = build_teacher(options)
    steps = count_steps(options, len(data.train), accelerator.num_processes)
    options = options_in_force(options, accelerator, teacher, steps)
    with clock.paused():  # the next run on these images finds it filled
        asked = options, data.reduced, teacher, teacher_identity, accelerator
        cache = filled_cache(*asked) if options.cache_teacher else None
    identity = {
        "options": defining_options(options), "teacher": teacher_identity, "images": len(data.train),
        "listing (names, sizes and labels of the images)": on_main_process(data.train.listing_hash),
        "processes": accelerator.num_processes, "mixed_precision": accelerator.mixed_precision, "device": device.type,
    }

    found = find_checkpoint(options.resume, output)
    state = load_checkpoint(found, identity) if found else None
    first_step = state.stage * steps.total + state.step if state else 0
    require_same(first_step, f"--output {output}: not every process finds the same checkpoint there; all machines of a "
                 "run must share this folder")
    corrupt = CorruptLog(len(data.train))
    if state:
        with understood(found):
            if state.stage not in range(len(options.stages) + 1) or state.step not in range(steps.total):
                raise ValueError(f"stage {state.stage}, step {state.step}")
            corrupt.load_state_dict(state.corrupt)
            clock.earlier = {name: float(seconds) for name, seconds in state.seconds.items()}
            if accelerator.scaler is not None and state.scaler is not None:
                accelerator.scaler.load_state_dict(state.scaler)
    if main_process:
        for name in FILES:
            recover(output / name)
    log = RunLog(accelerator, output, len(options.stages) * steps.total, first_step, options, clock)
    at_end.callback(log.close)  # an error message gets a line of its own, behind the progress bar
    run = Run(
        options, output, accelerator, data, teacher, cache, steps, identity, clock, corrupt, log,
        CollapseMonitor(read_lines(output / "log.jsonl")),
        AsyncScalars(lag=2 if device.type == "cuda" else 0),  # a step asks twice: what is checked, what is logged
        f"{found} (step {first_step})" if found else "none yet",
    )
    if main_process:
        _logger.info(
            f"{options.method} on {data.train.description}: {' -> '.join(options.stages)}, {steps.total} steps a stage"
            f"{f' from step {first_step}' if state else ''}; batch {options.batch_size} per process x "
            f"{accelerator.num_processes} processes x {options.grad_accum_steps} accumulated = {run.total_batch}; "
            f"{output}"
        )
    return run, state


def train_stage(run: Run, index: int, state: Checkpoint | None) -> tuple[Method, Checkpoint]:
    """Train stage number `index` to its end, from `state` in it or at its beginning; None: from fresh weights."""
    options, steps, accelerator = run.options, run.steps, run.accelerator
    method, wrapped, optimizer = start_stage(run, index, state)
    step = state.step if state else 0
    batches = load_batches(run, method, index, step)
    run.log.restart_clock()
    while step < steps.total:
        progress = step / steps.total
        lr = lr_at(
            step, steps.total, options.lr, steps.warmup, options.sched, options.min_lr, options.warmup_prefix,
            1 if options.sched_on_updates else steps.per_epoch,
        )
        for group in optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(seed_for(options.seed, index, step, accelerator.process_index))  # dropout

        outputs = forward_and_backward(run, method, wrapped, batches, progress)
        accelerator.unscale_gradients(optimizer)
        done = index * steps.total + step + 1
        check_step(run, method, outputs, done)
        tasks = [task for task, every in (("knn", options.knn_steps), ("linear", options.linear_steps))
                 if every and (step + 1) % every == 0]
        logged = (step + 1) % options.log_interval == 0 or step + 1 == steps.total or tasks
        norms = {}
        if logged:
            groups = method.gradient_groups().items()
            norms = {f"grad_norm_{name}": grad_norm(module, run.device) for name, module in groups}
        if options.clip_grad:
            torch.nn.utils.clip_grad_norm_(method.parameters(), options.clip_grad)
        optimizer.step()
        method.zero_grad()
        method.after_step(progress)
        step += 1
        run.log.step(run.total_batch)

        if logged:
            line = {"step": done, "epoch": (step - 1) // steps.per_epoch, "stage": options.stages[index], "lr": lr}
            log_step(run, method, line, outputs, norms, tasks, progress)
        due = step % steps.per_epoch == 0 or (options.checkpoint_steps and step % options.checkpoint_steps == 0)
        if due and step < steps.total:
            run.save(index, step, method.state_dict(), optimizer.state_dict())
    weights = {name: tensor.cpu().clone() for name, tensor in method.state_dict().items()}
    return method, run.save(index + 1, 0, weights, None)


def forward_and_backward(
    run: Run, method: Method, wrapped: torch.nn.Module, batches: Iterator[dict[str, torch.Tensor]], progress: float,
) -> list[dict[str, torch.Tensor]]:
    """Leave the gradients of one optimiser step in `method`; returns the scalars of each accumulated batch."""
    accelerator, accumulated = run.accelerator, run.options.grad_accum_steps
    outputs = []
    with weights_held(method):
        for number in range(accumulated):
            batch = next(batches)
            with accelerator.no_sync(wrapped) if number < accumulated - 1 else contextlib.nullcontext():
                with accelerator.autocast():
                    values = wrapped(batch, progress)
                accelerator.backward(values["loss"] / accumulated)
            outputs.append({name: scalar(value, run.device) for name, value in values.items()})
    return outputs


def check_step(run: Run, method: Method, outputs: list[dict[str, torch.Tensor]], done: int) -> None:
    """Let the run end in an error, as soon as the numbers are there, if loss or gradient is not finite."""
    if run.accelerator.scaler is None:  # a gradient scaler skips steps with infinite gradients by itself
        norm = grad_norm(method, run.device)
        outputs = [{**values, "grad_norm": norm} for values in outputs]
    names, last_good = list(outputs[0]), run.last_good

    def check(rows: list[list[float]]) -> None:
        for numbers in rows:
            check_finite(dict(zip(names, numbers, strict=True)), done, last_good)

    run.scalars.add(stacked(outputs), check)


def log_step(
    run: Run, method: Method, line: dict, outputs: list[dict[str, torch.Tensor]], norms: dict[str, torch.Tensor],
    tasks: list[str], progress: float,
) -> None:
    """Write the line of one step: means over accumulated batches and processes, gradient norms, accuracies."""
    line |= {"batch_size": run.options.batch_size, "total_batch_size": run.total_batch}
    if tasks:
        measure = partial(accuracy_during_training, run.options, run.data, method.student(), run.device, tasks)
        with run.clock.paused():
            line |= on_main_process(measure)
    means = stacked(outputs).mean(0)
    if run.accelerator.num_processes > 1:
        means = run.accelerator.reduce(means, reduction="mean")

    def write(numbers: list[float]) -> None:
        whole = line | dict(zip([*outputs[0], *norms], numbers, strict=True))
        if run.log.main:
            run.monitor.update(whole, progress)
        run.log.write(whole)

    run.scalars.add(torch.cat([means, stacked([norms])[0]]), write)


def finish(run: Run, method: Method) -> dict:
    """Export, then measure and write the figures into card, picture and summary.json; on the main process."""
    options, output = run.options, run.output
    # As anyone who loads the export has it.
    student = method.student().eval().to(memory_format=torch.contiguous_format)
    centred = centre(student, options, run.readable(), run.device, method.classifier())
    summary = {**run.summary(), "centred": centred}
    # First: whatever fails below, the weights are there.
    names = (run.data.train.class_names or ()) if method.needs_labels else ()
    summary.update(export(student, options, options.stages[-1], output, method.classifier(), names))
    draw_curves(output / "log.jsonl", output / "curves.png")
    describe(output / "export", summary, output / "curves.png", options.push_to_hub)
    try:
        summary.update(knn_figures(options, run.data, student, run.teacher, run.device))
    except BurnError as error:
        _logger.warning(f"no kNN figures: {error}")
    summary["seconds"] = round(time.perf_counter() - run.clock.begun, 1)
    write_json(output / "summary.json", summary)
    describe(output / "export", summary, output / "curves.png", options.push_to_hub)
    if options.push_to_hub:
        address = pushing(push_folder, output / "export", options.push_to_hub, record=output / PUSHED)
        _logger.info(f"pushed to {address}")
    _logger.info(f"wrote {output}/export, summary.json, curves.png, log.jsonl")
    return summary


def pushing(call: Callable[..., str], *args, **kwargs) -> str:
    """`call`, its errors under the name of the option."""
    try:
        return call(*args, **kwargs)
    except BurnError as error:
        raise BurnError(f"--push-to-hub {error}") from error


if __name__ == "__main__":
    main()
