"""`python -m burn_timm SCRIPT.py ARGS`: run a script, such as timm's train.py, in which timm knows our models."""

import os
import runpy
import sys

USAGE = "usage: python -m burn_timm SCRIPT.py ARGS, for example: train.py DATA --model reactnet_a_025"


def main(words: list[str]) -> int:
    """Run the script `words[0]` as `python` itself would; importing this package has registered the models.

    Returns:
        0, or 2 after one line on stderr where there is no such script. What the script raises goes through.
    """
    if not words or not os.path.isfile(words[0]):
        print(f"{words[0]}: no such file; {USAGE}" if words else USAGE, file=sys.stderr)
        return 2
    sys.argv[:] = words
    sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))  # before our own: workers must find this package
    runpy.run_path(words[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
