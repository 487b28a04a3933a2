"""The one exception that scripts turn into a single line for the user."""


class BurnError(RuntimeError):
    """Bad input, told in one line: which file or option, what was expected, what to do."""


class NoSplitError(BurnError):
    """A dataset has no split of that name; another name may do."""
