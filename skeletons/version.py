"""The git commit of the code, for records and checkpoints."""

import subprocess
from functools import cache
from pathlib import Path


@cache
def git_commit() -> str:
    """The commit of the code, with a + if files were changed since; "" outside a git checkout."""
    options = {"capture_output": True, "text": True, "cwd": Path(__file__).parent}
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=True, **options)
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], **options).returncode
        return head.stdout.strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
