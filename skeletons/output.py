"""What all commands need for their outputs: a console that can print any name, files that can be
written, errors of the system with a remedy."""

import contextlib
import errno
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


def write_partial(path: str | Path, content: bytes) -> Path:
    """Write a file next to `path` -> its path, to be renamed to `path`. An error leaves no such file.
    Raises OSError with the reason and the name of the file."""
    partial = Path(f"{path}.partial")
    try:
        partial.write_bytes(content)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    return partial


def error_message(error: Exception) -> str:
    """The message of an error. One of the system names the file, the fault and, here, the remedy."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    full = error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None))
    remedy = "make room, or name another folder" if full else "check it and its permissions"
    return f"{error.filename or 'an output'}: {error.strerror}\n{remedy}"
