"""What all command lines share: errors of one line, and the types of their options."""

import _thread
import argparse
import atexit
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable

from timm.utils import ParseKwargs

from .errors import BurnError, one_line
from .files import remove_lock_files


class Parser(argparse.ArgumentParser):
    """argparse without the usage block, so that an error is one line, and without abbreviated options.

    Every default is shown: write it into the help text where it depends on other options.
    """

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("formatter_class", _Help)
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


class _Help(argparse.HelpFormatter):
    """Appends the default of an option to its help text, unless the text speaks of it already. Keeps lines of a
    description that begin with a space as they are."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = (action.help or "").replace("%", "%%") if "%(" not in (action.help or "") else action.help
        if not action.option_strings or action.required or "default" in text.lower():
            return text
        default = action.default
        if default is argparse.SUPPRESS:
            return text
        if isinstance(default, bool):
            shown = "on" if default else "off"
        elif default in (None, "", [], {}):
            shown = "none"
        else:
            shown = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
        return f"{text} (default: {shown.replace('%', '%%')})"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n".join(line if line[:1] in ("", " ") else fill(line, width, indent) for line in text.splitlines())


def run(prog: str, call: Callable[[], object], after_interrupt: str = "") -> object:
    """What `call` returns; bad input ends the process with code 2 after one line on stderr, Ctrl-C with 130.

    Args:
        after_interrupt: What a user may do after Ctrl-C, for its line.
    """
    interrupt = _Interrupt(f"\n{prog}: interrupted{after_interrupt and '; '}{after_interrupt}\n")
    try:
        with interrupt:
            return call()
    except BaseException as error:
        if interrupt.came or isinstance(error, KeyboardInterrupt):  # what Ctrl-C breaks may raise anything
            sys.stdout.flush()
            interrupt.tell()
            code = 130
        elif isinstance(error, (BurnError, OSError)):
            # In one piece, as several processes may write at once.
            sys.stderr.write(f"{prog}: error: {one_line(error, 4000)}\n")
            code = 2
        else:
            raise
    sys.exit(code)  # behind the error, whose traceback holds networks and process groups


class _Interrupt:
    """Inside the block, the first Ctrl-C raises KeyboardInterrupt and the process ends, with code 130, 1.5 s later at
    most: loaders that join their workers and other processes of the run may not hold it up. Forked workers, which get
    the signal too, leave the matter to their parent."""

    def __init__(self, line: str):
        self.line, self.came, self._process, self._before = line, False, os.getpid(), None
        self._lost = False

    def __enter__(self) -> None:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler and _in_main_thread():
            self._before = signal.signal(signal.SIGINT, self._handle)

    def __exit__(self, *_: object) -> None:
        if self._before is not None and not self.came:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: object) -> None:
        if os.getpid() != self._process or self.came and not self._lost:
            return
        if self._lost:
            self._lost = False
            raise KeyboardInterrupt
        self.came = True
        sys.unraisablehook = self._unraisable
        _after(1.5, self._end)
        if hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch raises an error where a worker ends
        for child in multiprocessing.active_children():
            child.terminate()  # or their loader waits for them
        atexit.register(self._end)  # called first of all: what others have registered waits for workers
        raise KeyboardInterrupt

    def _unraisable(self, unraisable) -> None:
        """Python loses what is raised in a destructor or while it forks: raise it again, once that is over. What else
        is told here are torch's half-made loaders."""
        if unraisable.exc_type is KeyboardInterrupt:
            self._lost = True
            _after(0.1, _thread.interrupt_main)

    def tell(self) -> None:
        if self.line and os.environ.get("RANK", "0") == "0":
            sys.stderr.write(self.line)
        self.line = ""

    def _end(self) -> None:
        self.tell()
        remove_lock_files()
        os._exit(130)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _after(seconds: float, call: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()


def whole(least: int) -> Callable[[str], int]:
    """The type of a whole number of at least `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, not {text}")
        return value

    return parse


positive, natural = whole(1), whole(0)


def number(least: float = -math.inf, most: float = math.inf, above: float = -math.inf) -> Callable[[str], float]:
    """The type of a finite number in [least, most], greater than `above`."""
    words = []
    if least > -math.inf:
        words.append(f"at least {least:g}")
    if above > -math.inf:
        words.append(f"above {above:g}")
    if most < math.inf:
        words.append(f"at most {most:g}")
    expected = f"a number {' and '.join(words)}" if words else "a finite number"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and least <= value <= most and value > above):
            raise argparse.ArgumentTypeError(f"expected {expected}, not {text}")
        return value

    return parse


not_negative, above_zero, fraction = number(0), number(above=0), number(0, 1)


def file_ending(suffix: str) -> Callable[[str], str]:
    """The type of the name of a file to write, which ends in `suffix`."""

    def parse(text: str) -> str:
        if not text.lower().endswith(suffix) or os.path.isdir(text):
            raise argparse.ArgumentTypeError(f"expected a file that ends in {suffix}, not {text}")
        return text

    return parse


class KeyValues(ParseKwargs):
    """timm's `KEY=VALUE ...` with one line for what is none."""

    def __call__(self, parser, namespace, values, option_string=None):
        if wrong := [value for value in values if not value.partition("=")[1] or not value.partition("=")[0]]:
            raise argparse.ArgumentError(self, f"expected KEY=VALUE, not {wrong[0] or 'nothing'}")
        super().__call__(parser, namespace, values, option_string)
