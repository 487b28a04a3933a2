"""The one exception that scripts turn into a single line for the user, and what such a line must not tell."""

import re

from huggingface_hub import get_token

_TOKEN = re.compile(r"\b(?:hf|api_org)_\w{16,}")


class BurnError(RuntimeError):
    """Bad input, told in one line: which file or option, what was expected, what to do."""


class NoSplitError(BurnError):
    """A dataset has no split of that name; another name may do."""


def without_tokens(text: str) -> str:
    """`text` with the user's Hub token, and whatever looks like one, made unreadable: servers repeat what they got."""
    if token := get_token():
        text = text.replace(token, "hf_***")
    return _TOKEN.sub("hf_***", text)
