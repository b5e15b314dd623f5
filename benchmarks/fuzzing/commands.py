"""`touchline`'s commands, in this process: arguments in, and what came of it."""

import io
import logging
import re
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout

from engines.errors import TouchlineError
from fuzzing.kinds import Passed
from streamer.cli import main

_SENTENCE = re.compile(r"^(?:\x1b\[[0-9;?]*[A-Za-z]|\r)*(?:touchline: |touchline[^\n]*?: error: )(.*)\Z", re.M | re.S)


class Bug(Exception):
    """A command ended in something else than a sentence."""


def run_command(arguments: Sequence[str]) -> None:
    """Run a command, as `touchline ARGUMENTS`.

    Raises:
        TouchlineError: it said in a sentence why it does not go on, or Passed.
        Bug: it did not.
    """
    out, complaints = io.StringIO(), io.StringIO()
    logging.getLogger().handlers.clear()  # the command sets up its own, to its own standard error
    with redirect_stdout(out), redirect_stderr(complaints):
        try:
            code = main(arguments)
        except SystemExit as end:  # argparse
            code = end.code if isinstance(end.code, int) else -1
    text = complaints.getvalue()
    if code == 0:
        return
    if code not in (1, 2) or "Traceback" in text:
        raise Bug(f"exit code {code}:\n{text}")
    found = _SENTENCE.search(text)
    if found is None:
        raise Bug(f"exit code {code} without a sentence:\n{text}")
    sentence = found[1].removesuffix("\n")
    if not sentence.isprintable():
        raise Bug(f"this is no sentence, or could steer a terminal: {sentence!r}")
    if re.search(r"://\S*(?:secret@|[?&]passphrase=secret)", sentence):  # the password of every seed
        raise Bug(f"a password is shown: {sentence!r}")
    raise Passed if sentence == str(Passed()) else TouchlineError(sentence)
