"""Train and evaluate all rows of a study; every figure becomes a line of its results.

    python benchmarks/study.py docs/experiments/moving_target.yaml --results results/moving_target.jsonl --seeds 0 1

A study is a YAML file: `words` are texts that $NAME stands for in all others (environment variables too), `train` are
options of train_burn.py for all rows, `rows` has those of each row, `evaluate` has the words of eval_downstream.py for
each figure. What is there already is not done again, and a training that was killed goes on: give the same command.
"""

import argparse
import os
import shlex
import string
import subprocess
import sys
from pathlib import Path

import yaml

from burn_timm import arguments
from burn_timm.errors import BurnError

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from make_tables import add  # noqa: E402 - docs/ is no package


def main(argv: list[str] | None = None) -> None:
    parser = arguments.Parser(prog="study.py", description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="YAML file")
    parser.add_argument("--results", type=Path, required=True, metavar="FILE.jsonl", help="lines are added or replaced")
    parser.add_argument("--output", type=Path, default=Path("output/study"), metavar="FOLDER", help="of all runs")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="S")
    parser.add_argument("--dry", type=arguments.positive, metavar="STEPS", help="a trial: so few steps, one figure")
    args = parser.parse_args(argv)
    arguments.run("study.py", lambda: do(args, yaml.safe_load(args.study.read_text(encoding="utf-8"))))


def do(args: argparse.Namespace, study: dict) -> None:
    if unknown := set(args.rows or []) - set(study["rows"]):
        raise BurnError(f"{args.study}: no row {', '.join(sorted(unknown))}; there are {', '.join(study['rows'])}")
    jobs = [(row, seed) for seed in args.seeds for row in args.rows or study["rows"]]  # all rows of a seed first
    for number, (row, seed) in enumerate(jobs):
        name = f"{row}_s{seed}"
        run = args.output / name
        train = [*expanded(study, study["train"]), *expanded(study, study["rows"][row]), "--seed", str(seed)]
        if args.dry:
            train += ["--max-steps", str(args.dry), "--warmup-epochs", "0", "--no-compile"]
        if not (run / "summary.json").exists():
            script("train_burn.py", *train, "--resume", "auto", "--output", str(run))
        files = [run / "summary.json"]
        for figure, words in list(study["evaluate"].items())[: 0 if args.dry and number else 1 if args.dry else None]:
            files.append(args.output / f"{name}_{figure}.json")
            if not files[-1].exists():
                model = ["--model", f"local-dir:{run / 'export'}", "--output", str(files[-1])]
                limits = ["--limit-train", "500", "--limit-test", "200"] if args.dry else []
                script("eval_downstream.py", *expanded(study, words), *model, *limits)
        args.results.parent.mkdir(parents=True, exist_ok=True)
        add(args.results, files)
        print(f"{number + 1}/{len(jobs)} {name}: {args.results}", flush=True)


def expanded(study: dict, text: str) -> list[str]:
    """The words of a text, with its $NAMEs put in until none is left."""
    known = {**os.environ, **study.get("words", {})}
    while "$" in text:
        try:
            text = string.Template(text).substitute(known)
        except KeyError as error:
            raise BurnError(f"${error.args[0]} is neither in the study's words nor in the environment") from error
    return shlex.split(text)


def script(name: str, *words: str) -> None:
    """Run one of the two scripts, in bfloat16, to its end."""
    environment = {"ACCELERATE_MIXED_PRECISION": "bf16", **os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    code = subprocess.run([sys.executable, str(ROOT / name), *words], env=environment, check=False).returncode
    if code:
        raise BurnError(f"{name} ended with code {code} (above): {shlex.join(words)}")


if __name__ == "__main__":
    main()
