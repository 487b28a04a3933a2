"""The one exception that scripts turn into a single line for the user, and what such a line must not tell."""

import contextlib
import difflib
import importlib.util
import re
from collections.abc import Iterable, Iterator

from huggingface_hub import get_token

_TOKEN = re.compile(r"\b(?:hf|api_org)_\w{16,}")


class BurnError(RuntimeError):
    """Bad input, told in one line: which file or option, what was expected, what to do."""


class NoSplitError(BurnError):
    """A dataset has no split of that name; another name may do."""


@contextlib.contextmanager
def prefixed(words: object) -> Iterator[None]:
    """Put `words`, such as the name of a file, before the message of a BurnError that comes from the block."""
    try:
        yield
    except BurnError as error:
        raise BurnError(f"{words}: {error}") from error


def without_tokens(text: str) -> str:
    """`text` with the user's Hub token, and whatever looks like one, made unreadable: servers repeat what they got."""
    if token := get_token():
        text = text.replace(token, "hf_***")
    return _TOKEN.sub("hf_***", text)


def one_line(error: BaseException | str, limit: int = 300) -> str:
    """The message of `error` on one line of at most `limit` characters, without tokens of the Hub."""
    text = without_tokens(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def like(name: str, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: those of `names` that look like it; empty where none does."""
    near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.7)
    return f"; is it {' or '.join(near)}?" if near else ""


def require_package(package: str, extra: str, what: str) -> None:
    """Raise BurnError unless `package` is installed, with the extra of burn-timm that brings it.

    Args:
        what: What needs the package, to open the message: an option, a command or a dataset.
    """
    if importlib.util.find_spec(package) is None:
        raise BurnError(f'{what} needs the package {package}: pip install "burn-timm[{extra}]"')
