"""Every error a user can meet, in one tree.

TouchlineError
 ├─ UsageError      what was asked for does not make sense (exit code 2)
 ├─ SourceError     a stream or file cannot be opened, or holds no picture
 ├─ BundleError     a bundle is damaged, incomplete or of another version
 ├─ DeliveryError   a broker refuses, or spots could not be delivered
 └─ DataError       labels, predictions or training data cannot be read

Each message is one sentence: what is wrong, where, and what to do. Anything else that escapes is a bug.
"""


class TouchlineError(Exception):
    """Base of all errors that a user can cause; shown without a traceback."""

    exit_code = 1


class UsageError(TouchlineError):
    """What was asked for does not make sense."""

    exit_code = 2


class SourceError(TouchlineError):
    """A stream or file cannot be opened, or holds nothing to watch."""


class BundleError(TouchlineError):
    """A bundle is damaged, incomplete or of another version."""


class DeliveryError(TouchlineError):
    """A broker refuses, or what had to be said could not be delivered."""


class DataError(TouchlineError):
    """Labels, predictions or training data cannot be read."""
