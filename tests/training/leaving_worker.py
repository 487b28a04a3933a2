"""train_burn.py with the arguments given, and then the names of this process's threads: threads.RANK.json."""

import json
import os
import sys
from pathlib import Path

import train_burn

if __name__ == "__main__":
    output = Path(sys.argv[sys.argv.index("--output") + 1])
    try:
        train_burn.main(sys.argv[1:])
    finally:
        tasks = Path("/proc/self/task")  # none on other systems than Linux
        names = sorted(task.read_text().strip() for task in tasks.glob("*/comm"))
        (output / f"threads.{os.environ['RANK']}.json").write_text(json.dumps(names))
