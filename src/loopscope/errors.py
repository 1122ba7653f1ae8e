"""The one exception that a user's mistake raises: its message is a whole line, fit to be shown without a traceback."""


class LoopscopeError(Exception):
    """Bad input: the message says what was given, what was expected, and what to do."""
