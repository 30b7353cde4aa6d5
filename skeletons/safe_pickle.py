"""Pickles read without running code from them. Nobody has to read this file."""

import pickle
from pathlib import Path

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


# --- Pickles ------------------------------------------------------------------------------------------
#
# A pickle is a program: it may name any function and call it, and call it on what it has made before.
# Those read here may hold plain values (numbers, text, lists, tuples, dicts) and numpy arrays of
# numbers or text. The functions that numpy's own pickles name are replaced by those below; anything
# else is refused, and so is a small file that makes much out of little.


class _Callable:
    """What a name in a pickle stands for; a new one each time, so that no pickle can alter it."""

    __slots__ = ("make",)

    def __init__(self, make):
        self.make = make

    def __call__(self, *arguments):
        return self.make(*arguments)


class _Dtype:
    """A number or text type; numpy's own believes anything that a pickle says of it."""

    __slots__ = ("spend", "value")

    def __init__(self, spend, code):
        self.spend, self.value = spend, np.dtype(code) if type(code) is str else None
        if self.value is None or self.value.kind not in "biufSU":
            raise pickle.UnpicklingError("it holds an array of objects")

    def __setstate__(self, state):
        self.value = self.value.newbyteorder(state[1])

    def read(self, content):
        """Bytes -> array (N,), a copy."""
        if type(content) is str:  # Python 2
            content = content.encode("latin1")
        if type(content) not in (bytes, bytearray):  # a view could outlive what it shows
            raise pickle.UnpicklingError("an array is not made of bytes")
        self.spend(len(content))
        return np.frombuffer(content, self.value).copy()


class _Array(np.ndarray):
    """An array to be filled, once."""

    filled = False

    def __setstate__(self, state):
        _, shape, dtype, by_columns, content = state
        if self.filled or type(dtype) is not _Dtype:
            raise pickle.UnpicklingError("an array is filled twice, or with what is no array")
        self.filled = True
        super().__setstate__((1, shape, dtype.value, by_columns, dtype.read(content).tobytes()))


class _PlainUnpickler(pickle._Unpickler):
    """(The one written in Python: nine bytes can make the other one reserve 64 GB for its memo.)"""

    dispatch = pickle._Unpickler.dispatch.copy()

    def __init__(self, file, size):
        super().__init__(file, encoding="latin1")
        self.room = 4 * size + 4096
        self.known = {
            "numpy.dtype": lambda code, *_: _Dtype(self.spend, code),
            "numpy.ndarray": None,
            "multiarray._reconstruct": lambda *_: np.ndarray.__new__(_Array, 0),
            "multiarray.scalar": lambda dtype, content: dtype.read(content)[0],
            "numeric._frombuffer": lambda content, dtype, shape, order: dtype.read(content).reshape(
                shape, order=order
            ),
            "_codecs.encode": self.encode,  # bytes, in protocols 0 to 2
            "__builtin__.bytes": lambda: b"",
            "collections.OrderedDict": lambda: {},
        }

    def find_class(self, module, name):
        for package in ("numpy.core.", "numpy._core."):
            module = module.removeprefix(package)
        if f"{module}.{name}" not in self.known:
            raise pickle.UnpicklingError(f"it holds a {module}.{name} object")
        return _Callable(self.known[f"{module}.{name}"])

    def spend(self, count):
        self.room -= count
        if self.room < 0:
            raise pickle.UnpicklingError("it makes much out of little")

    def encode(self, text, _):
        self.spend(len(text))
        return text.encode("latin1")

    def load_bytearray8(self):
        size = int.from_bytes(self.read(8), "little")
        self.spend(size)
        self.append(bytearray(self.read(size)))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def read_pickle(path):
    """The plain values and arrays in a pickle file; loading it never runs code that it brings along.
    ValueError for anything else."""
    with open(path, "rb") as file:
        try:
            return _PlainUnpickler(file, Path(path).stat().st_size).load()
        except OSError:
            raise
        except Exception as error:  # damaged pickles raise nearly anything
            raise ValueError(f"{path} is no pickle of plain values and arrays: {error}") from error
