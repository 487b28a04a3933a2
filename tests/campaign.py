"""Breaks runs, files and folders at random, for as long as you like, and looks for wrong answers.

    python tests/campaign.py kills   --count 100     # trainings killed by SIGKILL and resumed: the same bits at the end
    python tests/campaign.py files   --count 10000   # damaged files: an error of one line, or the same outputs
    python tests/campaign.py folders --count 1000    # image folders in disorder: the right label and the right pixels

Ends with one line of JSON, and with code 1 if it found something. `--first N --count 1` with the same `--seed` repeats
case N of files or folders alone. test_campaign.py runs a few cases with the other tests.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.update(ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
SLOWEST = 20  # seconds that one case may take
MEMORY = 16 << 30  # bytes of address space of the process that runs the cases

TRAINING = (
    "--model test_reactnet --dataset digits --img-size 32 --hflip 0 --view light --batch-size 64 --threads 1 "
    "--log-with none --teacher test_resnet --no-teacher-pretrained --teacher-img-size 32 --head-dim 32 --epochs 2 "
    "--max-steps 6 --checkpoint-steps 1 --log-interval 1 --drop 0.1 --val-split none"
).split()
WRITTEN = ("checkpoint.pt", "latent.safetensors", "export", "summary.json")  # in the course of a run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "files", "folders"))
    parser.add_argument("--count", type=int, help="kills or cases; default: 100, 10000, 1000")
    parser.add_argument("--minutes", type=float, default=60, help="stop after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    options = parser.parse_args()
    options.count = options.count or {"kills": 100, "files": 10_000, "folders": 1_000}[options.what]
    started = time.monotonic()
    counts, findings = (kills if options.what == "kills" else cases)(options, started + 60 * options.minutes)
    print(json.dumps({
        "campaign": options.what, "seed": options.seed, "seconds": round(time.monotonic() - started),
        "counts": dict(sorted(counts.items())), "findings": findings,
    }))
    return 1 if findings else 0


# Kills ------------------------------------------------------------------------------------------------------------


def kills(options: argparse.Namespace, deadline: float) -> tuple[Counter, list]:
    """Trainings killed again and again, until `count` kills; each then runs to its end and is compared."""
    rng, counts, findings = random.Random(options.seed), Counter(), []
    with tempfile.TemporaryDirectory(prefix="burn-campaign-") as work:
        whole = Path(work) / "unbroken"
        import train_burn  # noqa: F401 - before the clock starts

        started = time.monotonic()
        assert wait(start_training(whole, 0)) == 0, (whole.parent / "unbroken.txt").read_text()
        seconds, expected = time.monotonic() - started, outcome(whole)
        while counts["kills"] < options.count and time.monotonic() < deadline:
            output, number = Path(work) / f"run{counts['runs']}", counts["runs"]
            for _ in range(rng.randint(4, 12)):
                workers, target = rng.choice((0, 2)), rng.choice((None, *WRITTEN))
                moment = rng.uniform(0, seconds) if target in (None, "checkpoint.pt") else 0
                if not kill_at_random(start_training(output, workers, target is not None), output, moment, target, rng):
                    counts["ended before the kill"] += 1
                    continue
                counts["kills"] += 1
                counts[f"kills, {workers} workers"] += 1
                during = [name for name in WRITTEN if any(output.glob(f".{name}.*"))] if output.is_dir() else []
                counts.update(f"kills while {name} was written" for name in during)
                exported = output / "export" / "model.safetensors"
                if exported.is_file() and exported.read_bytes() != expected["export/model.safetensors"]:
                    findings.append(f"run {number}: a kill left another export")
            code = wait(start_training(output, rng.choice((0, 2))))
            counts["runs"] += 1
            text = (output.parent / f"{output.name}.txt").read_text()
            if code:
                findings.append(f"run {number}: ended with {code}: {text[-300:]}")
            else:
                found = outcome(output)
                findings += [f"run {number}: another {name}" for name in expected if found[name] != expected[name]]
            if left := [path.name for path in output.glob(".*.*")]:
                findings.append(f"run {number}: left behind {left}")
    return counts, findings


def start_training(output: Path, workers: int, slow_disk: bool = False) -> int:
    """The process of a training, forked from this one, which has imported everything but computed nothing."""
    import matplotlib.figure  # noqa: F401 - each child would import it anew
    import sklearn.datasets  # noqa: F401

    import train_burn

    if process := os.fork():
        return process
    os.setsid()
    text = os.open(output.parent / f"{output.name}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(text, 1), os.dup2(text, 2)
    if slow_disk:  # so that a kill falls into a write more often
        fsync = os.fsync
        os.fsync = lambda file: (time.sleep(0.03), fsync(file))
    code = 1
    try:
        train_burn.main([*TRAINING, "--workers", str(workers), "--output", str(output), "--resume", "auto"])
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def kill_at_random(process: int, output: Path, moment: float, target: str | None, rng: random.Random) -> bool:
    """SIGKILL after `moment` seconds, and then as soon as `target` is being written. False: it ended before."""
    started = time.monotonic()
    while time.monotonic() < started + moment or target and not any(output.glob(f".{target}.*")):
        if os.waitpid(process, os.WNOHANG)[0]:
            return False
        time.sleep(0.0002)
    time.sleep(rng.choice((0, 0.003, 0.03)) * rng.random() if target else 0)
    # Alone, so that workers of its loader outlive it for some seconds, or with them.
    try:
        (os.kill if rng.random() < 0.5 else os.killpg)(process, signal.SIGKILL)
    except ProcessLookupError:  # it has just been forked and leads no group yet
        os.kill(process, signal.SIGKILL)
    return wait(process) == -signal.SIGKILL


def wait(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def outcome(output: Path) -> dict:
    """What must be the same, bit for bit, however often a run was killed."""
    names = ("latent.safetensors", "export/model.safetensors", "export/config.json")
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return {**{name: (output / name).read_bytes() for name in names}, "log": [(x["step"], x["loss"]) for x in lines]}


# Files and folders: one case after the other in a process that may crash ---------------------------------------------


def cases(options: argparse.Namespace, deadline: float) -> tuple[Counter, list]:
    """Counts by outcome, and the findings."""
    counts, findings = Counter(), []
    todo = list(range(options.first, options.first + options.count))
    with tempfile.TemporaryDirectory(prefix="burn-campaign-") as work:
        while todo and time.monotonic() < deadline:
            pipe, end = multiprocessing.Pipe(duplex=False)
            words = (options.what, options.seed, todo, deadline, work, end)
            worker = multiprocessing.get_context("spawn").Process(target=run_cases, args=words)
            worker.start()
            end.close()
            while todo:  # a crash loses the case that it came in
                try:
                    kind, finding = pipe.recv()
                except EOFError:
                    worker.join()
                    if worker.exitcode == 0:  # at its deadline
                        break
                    late = worker.exitcode == -signal.SIGALRM
                    kind = "too slow" if late else "crash"
                    finding = f"takes more than {SLOWEST} s" if late else f"ended with code {worker.exitcode}"
                counts[kind] += 1
                if finding:
                    findings.append({"case": todo[0], "finding": finding})
                    print(f"case {todo[0]}: {finding}", file=sys.stderr, flush=True)
                del todo[0]
                if worker.exitcode is not None:
                    break
            worker.join()
        counts["cases"] = sum(counts.values())
    return counts, findings


def run_cases(what: str, seed: int, todo: list[int], deadline: float, work: str, pipe) -> None:
    """In a process of its own: sends the outcome of each case. An alarm ends it where one takes too long."""
    import logging
    import resource

    import torch

    logging.disable()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    run = maker(what, Path(tempfile.mkdtemp(dir=work)))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for number in todo:
        if time.monotonic() > deadline:
            break
        signal.alarm(SLOWEST)
        pipe.send(outcome_of(run, f"{seed} {number}"))
        signal.alarm(0)


def maker(what: str, folder: Path):
    """What runs a case of this kind in `folder`."""
    if what == "files":
        from campaign_files import Files as Cases
    else:
        from campaign_folders import Folders as Cases
    return Cases(folder).run


def outcome_of(run, name: str) -> tuple[str, str | None]:
    """Of one case: its kind, and what is wrong."""
    try:
        return run(random.Random(name))
    except AssertionError as wrong:
        return "wrong", str(wrong)[:500]
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "another exception", f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"[:500]


if __name__ == "__main__":
    sys.exit(main())
