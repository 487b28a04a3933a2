"""Images a second of real runs on photos, and the share of the time in which a step waits for its images.

    python benchmarks/data_wait.py --sizes 64:512 224:128 --output data_wait.jsonl -- --data-dir PHOTOS ...

A size is pixels:images of a batch. Behind `--` stand the options of train_burn.py. A row is a run of its own in this
process, with views made in workers and on the device; the first third of its steps does not count.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean

import train_burn
from burn_timm import arguments
from burn_timm.files import read_lines, write_text
from burn_timm.provenance import git_commit, hardware
from burn_timm.tables import markdown, number

HOW = {"eager": "--no-compile", "compiled": "--compile"}


def main(argv: list[str] | None = None) -> list[dict]:
    """Run with `argv`, print a table, write the rows and return them."""
    parser = arguments.Parser(prog="data_wait.py", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["64:512", "224:128"], metavar="PIXELS:BATCH")
    parser.add_argument("--how", nargs="+", choices=HOW, default=list(HOW))
    parser.add_argument("--steps", type=arguments.whole(3), default=45, metavar="N", help="of a run")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="-- and options of train_burn.py")
    args = parser.parse_args(argv)
    rows = [
        {"img_size": int(size.split(":")[0]), "how": how, "views_on": where, **run(args, size, HOW[how], where)}
        for size in args.sizes for how in args.how for where in ("workers", "device")
    ]
    about = {"options": args.options, "commit": git_commit(), "hardware": hardware()}
    write_text(args.output, "".join(json.dumps({**row, **about}) + "\n" for row in rows))
    print(markdown(["px", "how", "views made in", "images/s", "data wait"], [
        [str(row["img_size"]), row["how"], row["views_on"], number(row["images_per_s"], 0),
         f"{row['data_wait']:.0%}"] for row in rows
    ]))
    return rows


def run(args: argparse.Namespace, size: str, how: str, where: str) -> dict:
    side, batch = size.split(":")
    with tempfile.TemporaryDirectory() as folder:
        train_burn.main([
            *(word for word in args.options if word != "--"), "--img-size", side, "--batch-size", batch, how,
            "--views-on", where, "--stages", "w1a1", "--epochs", "999999", "--max-steps", str(args.steps),
            "--log-interval", str(args.steps // 3), "--val-split", "none", "--log-with", "none", "--output", folder,
        ])
        lines = read_lines(Path(folder) / "log.jsonl")[1:3]
    return {name: mean(line[name] for line in lines) for name in ("images_per_s", "data_wait", "batch_size")}


if __name__ == "__main__":
    main()
