"""Errors that a person is meant to read.

Here: the exception types every layer raises, each with what is wrong and the command that mends it.
Not here: handling; the CLI prints them, Dagster shows them, nothing swallows them.
"""


class KurashiruError(Exception):
    """Base of all errors raised on purpose; the message says what is wrong, where, and how to mend it."""


class ConfigurationError(KurashiruError):
    """A setting is missing or wrong. Never retried: somebody has to change something."""


class TransientError(KurashiruError):
    """A dependency did not answer or was busy; the same call may succeed later."""


class StaleStreamError(KurashiruError):
    """A stream's offset points before the oldest change still kept; unread changes are out of reach."""
