"""A lock against two processes that write the same files, on Linux, macOS and Windows."""

import contextlib
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt


class FileLock:
    """A lock on a file that exists only while it is locked. The system releases the lock of a process
    that is killed; the file that such a process leaves behind is in nobody's way. Processes that the
    owner starts do not inherit the lock.

    On a file system without locks, every process gets the lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def acquire(self) -> bool:
        """Take the lock -> False if another process has it. OSError where no file can be written."""
        self.file = open(self.path, "a")  # noqa: SIM115 (open until released)
        try:
            if fcntl:
                fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # 0: the other process finished, and removed the file, in between.
                taken = os.fstat(self.file.fileno()).st_nlink > 0
            else:
                msvcrt.locking(self.file.fileno(), msvcrt.LK_NBLCK, 1)
                taken = True
        except (BlockingIOError, PermissionError):
            taken = False
        except OSError:
            taken = True  # a file system without locks
        if not taken:
            self.file.close()
        return taken

    def release(self) -> None:
        """Remove the file and give the lock back, unless that is done."""
        if self.file.closed:
            return
        with contextlib.suppress(OSError):
            if fcntl:  # while it is locked, so that it is not another process's
                self.path.unlink()
        self.file.close()
        with contextlib.suppress(OSError):
            if not fcntl:  # Windows does not remove an open file
                self.path.unlink()
