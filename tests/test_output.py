"""skeletons/output.py: no command loses its work to the console's encoding or an output's folder."""

import errno
import io
import sys
from pathlib import Path

import pytest

import convert_data
import export
import plot
import predict
import synthesize
import test as test_script
import train
from skeletons.output import check_output, error_message, make_console_safe, write_partial

COMMANDS = (
    *(module.main for module in (convert_data, test_script, predict, export, plot, synthesize)),
    train.run_command,
)


def ascii_console(monkeypatch):
    """(Not a fixture: pytest replaces sys.stdout again before it calls the test.)"""
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", console)
    return console


def test_what_the_console_cannot_show_is_printed_as_escapes(monkeypatch):
    console = ascii_console(monkeypatch)
    make_console_safe()
    print("走路 \udce9")  # and a byte of a file name that is not UTF-8
    console.flush()
    assert console.buffer.getvalue().split() == [rb"\u8d70\u8def", rb"\udce9"]
    monkeypatch.setattr(sys, "stdout", None)  # a Windows program without a console
    make_console_safe()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__module__)
def test_every_command_has_such_a_console(command, monkeypatch):
    console = ascii_console(monkeypatch)
    with pytest.raises(SystemExit):
        command(["--help"])
    assert console.errors == "backslashreplace"


def test_outputs_are_checked(tmp_path):
    check_output(tmp_path / "new/out.onnx", "")
    assert not any((tmp_path / "new").iterdir())
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file/out.onnx"):
        with pytest.raises(OSError, match=r"cannot be written: .+\n--out names another file"):
            check_output(path, "--out names another file")


def test_errors_of_the_system_get_a_remedy(tmp_path, monkeypatch):
    with pytest.raises(OSError) as caught:
        write_partial(tmp_path / "gone/out.png", b"")
    assert error_message(caught.value) == (
        f"{tmp_path / 'gone/out.png'}: No such file or directory\ncheck it and its permissions"
    )

    def full(path, content):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError) as caught:
        write_partial(tmp_path / "out.png", b"")
    assert (
        error_message(caught.value)
        == f"{tmp_path / 'out.png'}: No space left on device\nmake room, or name another folder"
    )
    assert not any(tmp_path.iterdir())
    for own in (ValueError("fault\nremedy"), FileNotFoundError("fault\nremedy")):
        assert error_message(own) == "fault\nremedy"
