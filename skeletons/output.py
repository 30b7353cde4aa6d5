"""What all commands need for their outputs: a console that can print any name, files that can be
written."""

import contextlib
import sys
import tempfile
from pathlib import Path


def make_console_safe() -> None:
    """Print what the console's encoding does not have as \\u escapes. By default, that ends a command
    with UnicodeEncodeError, perhaps after hours of work."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # (replaced by an object that is not a file, or None)
            stream.reconfigure(errors="backslashreplace")


def check_output(path: str | Path, remedy: str) -> None:
    """Make the folder of an output file if it is missing, and raise OSError, with the remedy, unless a
    file can be written there. For commands that compute first and write then."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            reason = "it is a folder" if path.is_dir() else ""
    except OSError as error:
        reason = error.strerror
    if reason:
        raise OSError(f"{path} cannot be written: {reason}\n{remedy}")
