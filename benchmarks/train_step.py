"""Time a training step of ours against one in the style of the published code.

    python benchmarks/train_step.py --threads 1                     # the student alone
    python benchmarks/train_step.py --threads 1 --whole             # BURN with its heads and a frozen ResNet-50

All rows are built and run once, then timed in alternating rounds in this process; memory is measured before that, each
row in a process of its own.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from steps import ROWS, Setting, Step, measure
from torch.utils.flop_counter import FlopCounterMode

from burn_timm import arguments
from burn_timm.errors import BurnError, one_line
from burn_timm.evals.results import write_result
from burn_timm.provenance import hardware
from burn_timm.tables import markdown, number
from burn_timm.timing import BUSY, alternating
from burn_timm.training.processes import default_threads


def parser() -> arguments.Parser:
    parser = arguments.Parser(prog="train_step.py", description=__doc__.splitlines()[0])
    add, positive = parser.add_argument, arguments.positive
    add("--model", default="reactnet_a", help="a ReActNet-A by its timm name")
    add("--img-size", type=positive, default=64, metavar="PIXELS", help="of student and teacher")
    add("--batch-size", type=positive, default=64, metavar="N", help="images")
    add("--whole", action="store_true", help="the whole BURN step with heads and teacher, not the student alone")
    add("--teacher", default="resnet50", help="timm name; its weights are random, as time does not depend on them")
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=f"of {', '.join(ROWS)}")
    add("--device", default="cpu", choices=("cpu", "cuda"), help="cpu or cuda")
    add("--threads", type=positive, default=default_threads(), metavar="N", help="of torch")
    add("--rounds", type=positive, default=5, metavar="N", help="alternating ones")
    add("--runs", type=positive, default=2, metavar="N", help="steps of a row in a round")
    add("--no-memory", action="store_true", help="do not measure memory (a process a row)")
    add("--ceiling-size", type=positive, metavar="N", help="side of the square matrices whose product in bf16 is the "
        "ceiling of utilisation; default: 8192 on a GPU, 2048 on a CPU")
    add("--output", type=Path, metavar="RESULT.json", help="write rows and provenance")
    add("--options", nargs=argparse.REMAINDER, default=[], help="last: further options of train_burn.py for all rows")
    return parser


def main(argv: list[str] | None = None) -> list[dict]:
    """Run with `argv`, print, and return the rows. Bad input ends the process with code 2."""
    argv = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(argv)
    threads = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        return arguments.run("train_step.py", lambda: run(args, argv))
    finally:
        torch.set_num_threads(threads)


def run(args: argparse.Namespace, argv: list[str]) -> list[dict]:
    if args.device == "cuda" and not torch.cuda.is_available():
        raise BurnError("--device cuda: there is none")
    setting = Setting(
        args.model, args.img_size, args.batch_size, args.device, args.whole, args.teacher, tuple(args.options),
    )
    flops = flops_per_image(setting)
    size = args.ceiling_size or (8192 if args.device == "cuda" else 2048)
    ceiling = matmul_ceiling(args.device, size)
    rows = measure_rows(args, setting)
    finish(rows, args.batch_size, flops, ceiling)
    print(f"{hardware()['gpu'] if args.device == 'cuda' else hardware()['cpu']}, threads {args.threads}; {args.model}, "
          f"{args.img_size} px, batch {args.batch_size}, {'whole BURN step' if args.whole else 'student alone'}; "
          f"{flops / 1e9:.2f} GFLOP an image, bf16 matmul {ceiling / 1e12:.2f} TFLOP/s\n")
    print(table(rows, args.threads if args.device == "cpu" else 0))
    if not any(row["ratio"] for row in rows):
        raise BurnError("no row was measured; the reasons stand in the table")
    if args.output:
        write(args, argv, setting, rows, flops, ceiling, size)
        print(f"\nwrote {args.output}")
    return rows


def measure_rows(args: argparse.Namespace, setting: Setting) -> list[dict]:
    """Rows with memory, and with the times of `timing.alternating`, or the reason why there are none."""
    rows, steps = {name: {"row": name, "title": ROWS[name].title, "error": None} for name in args.rows}, {}
    if not args.no_memory:
        for name, row in rows.items():
            row["memory"] = measure(name, setting, args.threads)
    for name, row in rows.items():
        try:
            step = Step(ROWS[name], setting)
            step()  # a first time, in which it compiles
            steps[name] = step
        except Exception as error:  # a compiler may raise anything; it costs its own row only
            if not ROWS[name].compiled or isinstance(error, BurnError):
                raise
            row["error"] = one_line(error, 120)
    for name, figures in alternating(steps, args.rounds, args.runs).items():
        rows[name].update(figures)
    return list(rows.values())


def finish(rows: list[dict], batch_size: int, flops: float, ceiling: float) -> None:
    """Images a second, utilisation, and the ratios to the first row, which is the reference where it was asked for."""
    base = next((row for row in rows if row["row"] == "reference"), rows[0])
    base_peak = base.get("memory", {}).get("peak_bytes")
    for row in rows:
        peak, timed = row.get("memory", {}).get("peak_bytes"), "ms" in row and "ms" in base
        row["images_per_second"] = 1000 * batch_size / row["ms"] if "ms" in row else None
        row["utilisation"] = row["images_per_second"] * flops / ceiling if "ms" in row else None
        row["ratio"] = base["ms"] / row["ms"] if timed else None
        row["peak_ratio"] = peak / base_peak if peak and base_peak else None


def flops_per_image(setting: Setting) -> float:
    """Floating-point operations (two a multiply-accumulate) of convolutions and matrix products in a step of ours.

    Where bits are counted these are the operations that they replace.
    """
    options = (*setting.options, "--no-count-bits")
    step = Step(ROWS["eager-fp32"], replace(setting, batch_size=2, device="cpu", options=options))
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 2


def matmul_ceiling(device: str, size: int) -> float:
    """The best of five bf16 products of square matrices, in FLOP/s."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(6):  # the first one is slower, and so is never the best
        start = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def table(rows: list[dict], threads: int) -> str:
    """Markdown; MB are 10^6 bytes. What was not measured is n/a, and why stands below."""
    header = ("row", "ms", "images/s", "ratio", "CPU ms", "% of ceiling", "peak MB", "ratio", "saved MB")
    lines, notes = [], []
    for row in rows:
        memory = row.get("memory", {})
        lines.append([
            row["title"], number(row.get("ms"), 1), number(row["images_per_second"], 1), number(row["ratio"], 2),
            number(row.get("cpu_ms"), 0), number(row["utilisation"], 1, 100),
            number(memory.get("peak_bytes"), 0, 1e-6), number(row["peak_ratio"], 2),
            number(memory.get("saved_bytes"), 0, 1e-6),
        ])
        for what, reason in (("", row["error"]), (" memory", memory.get("error"))):
            if reason:
                notes.append(f"n/a: {row['title']}{what}: {reason}")
    share = [row["cpu_per_wall"] / threads for row in rows if threads and row.get("cpu_per_wall")]
    if share and min(share) < BUSY:
        notes.append(f"busy machine: a row had {min(share):.2f} of its threads; measure again when it is idle, "
                     "or compare the CPU's milliseconds")
    return "\n".join([markdown(header, lines), *([""] + notes if notes else [])])


def write(args, argv: list[str], setting: Setting, rows: list[dict], flops: float, ceiling: float, size: int) -> None:
    """The value is the ratio in images a second of our fastest row to the reference, else to the first row."""
    best = max((row for row in rows if row["ratio"]), key=lambda row: row["ratio"])
    write_result(
        args.output, task="train_step", value=best["ratio"], model=args.model, checkpoint=None,
        command=["benchmarks/train_step.py", *argv], dataset={"name": "noise", "images": args.batch_size},
        protocol={
            **vars(setting), "value": "images a second of the fastest row over those of the reference (or first) row",
            "fastest": best["row"], "threads": args.threads, "rounds": args.rounds, "runs_a_round": args.runs,
            "time": "median over all steps of wall time, rows alternating in one process",
            "step": "forward, backward, update; no data, schedule, checks or logging",
            "memory": "peak of a step after the first, less what the process held before the networks were built",
            "ceiling": f"bf16 product of {size}x{size} matrices, best of five",
        },
        extra={"rows": rows, "flops_per_image": flops, "ceiling_flops": ceiling},
    )


if __name__ == "__main__":
    main()
