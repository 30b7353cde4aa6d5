"""Read pickles of plain values and arrays without running code from them; nobody has to read it.

A pickle is a program: it may name any function, call it, and call it on what it has made before. Those
read here may contain plain values (numbers, text, lists, tuples, dicts) and numpy arrays of numbers or
text. The functions that numpy's own pickles name are replaced by those below. Anything else is refused,
and so is a small file that would fill the memory.
"""

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np


class _Callable:
    """What a name in a pickle stands for; a new one each time, so that no pickle can alter it."""

    __slots__ = ("make",)

    def __init__(self, make: Callable) -> None:
        self.make = make

    def __call__(self, *arguments: object) -> object:
        return self.make(*arguments)


class _Dtype:
    """A number or text type. (numpy's own accepts anything that a pickle says about it.)

    spend  called with each number of bytes to be allocated; raises UnpicklingError above the budget
    """

    __slots__ = ("spend", "value")

    def __init__(self, spend: Callable[[int], None], code: object) -> None:
        self.spend, self.value = spend, np.dtype(code) if type(code) is str else None
        if self.value is None or self.value.kind not in "biufcSU":
            raise pickle.UnpicklingError("it contains an array of objects")

    def __setstate__(self, state: tuple) -> None:
        self.value = self.value.newbyteorder(state[1])

    def read(self, content: object) -> np.ndarray:
        """Bytes -> array (N,), a copy."""
        if type(content) is str:  # Python 2
            content = content.encode("latin1")
        if type(content) not in (bytes, bytearray):  # a view could outlive its memory
            raise pickle.UnpicklingError("an array is not made of bytes")
        self.spend(len(content))
        return np.frombuffer(content, self.value).copy()


class _Array(np.ndarray):
    """An array to be filled, once."""

    filled = False

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, by_columns, content = state
        if self.filled or type(dtype) is not _Dtype:
            raise pickle.UnpicklingError("an array is filled twice, or not with an array")
        self.filled = True
        super().__setstate__((1, shape, dtype.value, by_columns, dtype.read(content).tobytes()))


class _BoundedFile:
    """A file that refuses to read more than its size, before any memory is allocated for it."""

    def __init__(self, file: io.BufferedReader, size: int) -> None:
        self.file, self.size, self.readline = file, size, file.readline

    def read(self, count: int) -> bytes:
        if count > self.size:
            raise pickle.UnpicklingError("truncated")
        return self.file.read(count)


FACTORIES = ("bool", "dict", "float", "int", "list", "long", "str", "tuple")  # of defaultdicts


class _PlainUnpickler(pickle._Unpickler):
    """(The unpickler written in Python; nine bytes can make the one in C reserve 64 GB of memory.)"""

    dispatch = pickle._Unpickler.dispatch.copy()

    def __init__(self, file: io.BufferedReader, size: int) -> None:
        super().__init__(_BoundedFile(file, size), encoding="latin1")
        self.budget = 4 * size + 4096  # bytes
        self.known = {
            "numpy.dtype": lambda code, *_: _Dtype(self.spend, code),
            "numpy.ndarray": None,
            "multiarray._reconstruct": lambda *_: np.ndarray.__new__(_Array, 0),
            "multiarray.scalar": lambda dtype, content: dtype.read(content)[0],
            "numeric._frombuffer": lambda content, dtype, shape, order: dtype.read(content).reshape(
                shape, order=order
            ),
            "_codecs.encode": self.encode,  # bytes, in protocols 0 to 2
            "builtins.bytes": lambda: b"",
            "collections.OrderedDict": lambda: {},
            "collections.defaultdict": lambda *_: {},
            **dict.fromkeys(("builtins.set", "builtins.frozenset"), self.make_set),  # protocols 0 to 3
            # (never called)
            **{f"builtins.{name}": None for name in FACTORIES},
        }

    def find_class(self, module: str, name: str) -> _Callable:
        for package in ("numpy.core.", "numpy._core."):
            module = module.removeprefix(package)
        module = module.replace("__builtin__", "builtins")  # Python 2
        if f"{module}.{name}" not in self.known:
            raise pickle.UnpicklingError(f"it contains a {module}.{name} object")
        return _Callable(self.known[f"{module}.{name}"])

    def spend(self, count: int) -> None:
        self.budget -= count
        if self.budget < 0:
            raise pickle.UnpicklingError("its contents are much larger than the file")

    def encode(self, text: str, _: object) -> bytes:
        self.spend(len(text))
        return text.encode("latin1")

    def make_set(self, items: list) -> set:
        self.spend(8 * len(items))
        return set(items)

    def load_bytearray8(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        self.append(bytearray(self.read(size)))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def read_pickle(path: str | Path) -> object:
    """The plain values and arrays in a pickle file. Reading never runs code from the file. Raises
    ValueError if it contains anything else."""
    with open(path, "rb") as file:
        try:
            return _PlainUnpickler(_as_saved(file), Path(path).stat().st_size).load()
        except (OSError, MemoryError):
            raise
        except Exception as error:  # corrupt pickles raise nearly anything
            fault, remedy = _explain(path, error)
            raise ValueError(
                f"{path} is not a pickle of plain values and arrays: {fault}\n{remedy}"
            ) from error


def _as_saved(file: io.BufferedReader) -> io.BufferedReader | io.BytesIO:
    """The file; of a pickle that is text (protocol 0), without the CR that Windows or an FTP program
    put before each line feed."""
    if file.peek(1)[:1] == b"\x80":  # protocols 2 to 5
        return file
    content = file.read()
    file.seek(0)
    lines = content.count(b"\n")
    if not lines or content.count(b"\r\n") < lines:
        return file
    return io.BytesIO(content.replace(b"\r\n", b"\n"))


# How files of other kinds begin.
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstd"}
OTHER_KINDS = {
    b"PK": "a .zip file, or saved by torch.save",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a .npy file",
}
AGAIN = "download it, or save it, again"


def other_kind(content: bytes) -> tuple[str, str] | None:
    """What a file is that begins in this way, and what to do with it; None if that is not known."""
    content = content.lstrip()
    if not content:
        return "empty", AGAIN
    if content.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS", "get the file itself with: git lfs pull"
    if content[:9].lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page", AGAIN
    for magic, name in COMPRESSED.items():
        if content.startswith(magic):
            return f"it is compressed ({name})", "decompress it first"
    return None


def _explain(path: str | Path, error: Exception) -> tuple[str, str]:
    """(what is wrong with a file that raised this, what to do)."""
    with open(path, "rb") as file:
        start = file.read(32)
    if known := other_kind(start):
        return known
    for magic, name in OTHER_KINDS.items():
        if start.startswith(magic):
            return f"it is {name}", "give a pickle"
    if not isinstance(error, pickle.UnpicklingError):
        return "truncated or corrupt", AGAIN
    if "it contains" in str(error):
        return str(error), "save it with numbers, text, lists, tuples, dicts and numpy arrays only"
    return str(error), AGAIN
