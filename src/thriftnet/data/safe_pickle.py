"""Pickles of images without the danger of pickles: NumPy arrays and plain containers, nothing else.

A pickle is a program that may name any function of any module and call it. Here a name is looked up in a closed table
of replacements written below; any other name stops the reading before anything runs. Even NumPy's own unpickling, which
trusts what it is given, is not reached: arrays are rebuilt from checked shapes, checked plain element types and bytes,
so object arrays and structured types are refused as well. Protocols 0 to 5, by Python 2 or 3, by NumPy 1 or 2.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import reprlib
import struct
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from thriftnet.data.limits import read_file
from thriftnet.errors import DataError

_ELEMENTS = re.compile(r"[<>|=]?[biufSU][0-9]{0,9}")
_COPIES, _WRITTEN_OUT, _ALWAYS = 8, 8, 2**16
"""How much larger than the file what is made of it may be, by calls and as tuples written out; the largest honest
factor is four. A small file may always make so much."""
_MARK = -1
_KEEPS_FIRST = ("BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS")
_room: ContextVar[list[int]] = ContextVar("room")
_DAMAGED = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
    struct.error,
)


def load_pickle(source: bytes | Path, name: str | None = None) -> Any:
    """What the pickle holds: containers of bytes, bytearray, str, numbers, truth values, None and arrays.

    Containers are dict, list, tuple, set and frozenset; an OrderedDict comes back as a dict in its order, a string of
    Python 2 as bytes, a NumPy number as Python's. `name` is what a message calls the pickle, by default its path.
    Raises DataError where it holds, or wants to do, anything else, and where it is damaged.
    """
    name = name or (str(source) if isinstance(source, Path) else "the pickle")
    try:
        content = read_file(source) if isinstance(source, Path) else source
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror})") from None
    room = _room.set([_COPIES * len(content) + _ALWAYS])
    try:
        _check_claims(content)
        value = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        _check_finished(value)
        return value
    except _Refused as refused:
        raise DataError(f"{name} {refused}; do not trust this file") from None
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name} is no readable pickle ({reason:.200}); get it again from where it came") from None
    finally:
        _room.reset(room)


def shortly(value: object) -> str:
    """`repr` for a message, of the outer levels: of lists that hold the same list several times it would not end."""
    brief = reprlib.Repr()
    brief.maxlevel = 2
    return brief.repr(value)[:80]


def field(mapping: Mapping[Any, Any], key: str) -> Any:
    """The value of b'key' or 'key', or None: Python 2 wrote bytes, Python 3 writes str."""
    return mapping.get(key.encode(), mapping.get(key))


def _check_claims(content: bytes) -> None:
    """Raise ValueError where a few bytes ask for much memory or time.

    A number of an object makes Python's reader take so much memory first. And a tuple of two references to a tuple of
    two references ... grows twofold with every pair, though not in memory: whoever hashes it, as a dict does with its
    keys, visits all of it. So what each tuple would be when written out is counted along, and limited.
    """
    most = _WRITTEN_OUT * len(content) + _ALWAYS
    stack: list[int] = []
    memo: dict[int, int] = {}
    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            number = len(memo) if argument is None else argument
            if number > len(content):
                raise ValueError(f"object number {number} in {len(content)} bytes")
            memo[number] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument or 0])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "MARK":
            stack.append(_MARK)
        else:
            taken = _taken(opcode, stack)
            # What else than tuples and frozensets is hashed was made from bytes of the file, or is never hashed.
            grows = name.startswith("TUPLE") or name in ("FROZENSET", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "INST", "OBJ")
            size = 1 + sum(taken) if grows else taken[0] if taken and name in _KEEPS_FIRST else 1
            if size > most:
                raise ValueError(f"an object of more than {most:,} parts in {len(content):,} bytes")
            stack += [size] * len(opcode.stack_after)


def _taken(opcode: pickletools.OpcodeInfo, stack: list[int]) -> list[int]:
    """Take from `stack` what the operation takes, without the mark. Raises IndexError where there is too little."""
    taken: list[int] = []
    if pickletools.markobject in opcode.stack_before:
        while (size := stack.pop()) != _MARK:
            taken.append(size)
        before = opcode.stack_before.index(pickletools.markobject)
    else:
        before = len(opcode.stack_before)
    taken += [stack.pop() for _ in range(before)]
    return taken[::-1]


def _check_finished(value: object) -> None:
    """Refuse a result that holds a part of this reader instead of a value; a container may hold itself."""
    waiting, seen = [value], set[int]()
    while waiting:
        each = waiting.pop()
        if isinstance(each, _Stand | _Elements):
            raise _Refused("holds a function instead of a value")
        if isinstance(each, dict | list | tuple | set | frozenset) and id(each) not in seen:
            seen.add(id(each))
            waiting += each
            if isinstance(each, dict):
                waiting += each.values()


def _take(count: int) -> None:
    """Count bytes or parts that a call makes from others. Raises ValueError for many times what the file has.

    A reference has two bytes, and each call that copies what it refers to could make a megabyte of them.
    """
    left = _room.get()
    left[0] -= count
    if left[0] < 0:
        raise ValueError("it copies its content again and again")


def _written_out(container: Any) -> int:
    """Parts of a container, those of the tuples and frozensets in it as often as they occur. Raises ValueError."""
    waiting, parts = [container], 0
    while waiting:
        each = waiting.pop()
        _take(0 if each is container else 1)
        parts += len(each)
        if not isinstance(each, bytes | bytearray):
            waiting += [inner for inner in each if isinstance(inner, tuple | frozenset)]
    return parts


class _Refused(Exception):
    """The pickle asked for something that no set of images needs."""


class _Stand:
    """A function that a pickle may call, as an instance: of a function or a class a pickle could set attributes."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: object) -> None:
        raise _Refused("tries to change a function of the reader, which was refused")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> _Stand:
        stand = _TABLE.get((module, name))
        if stand is None:
            wanted = ascii(f"{module}.{name}")[1:-1]
            raise _Refused(f"wants to use {wanted:.100}, which no file of images needs; nothing of it was run")
        return stand

    def persistent_load(self, pid: object) -> Any:
        raise _Refused("refers to objects outside itself, which no file of images needs")


class _Elements:
    """A plain element type while it is read: NumPy's `dtype`, without the forms that can hold objects."""

    __slots__ = ("_dtype",)

    def __init__(self, code: object, *_: object) -> None:
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(text, str) or not _ELEMENTS.fullmatch(text):
            raise _Refused(f"holds an array of type {shortly(text)}, not of numbers, truth values or text")
        self._dtype = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        """(version, byte order, then three parts that only structured types have, ...)."""
        if not isinstance(state, tuple) or len(state) < 5 or state[2:5] != (None, None, None):
            raise _Refused("holds an array of a structured type, not of numbers, truth values or text")
        order: Any = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "="):
            raise ValueError(f"byte order {shortly(order)}")
        self._dtype = self._dtype.newbyteorder(order)

    def array(self, shape: Any, raw: object, fortran: bool) -> np.ndarray:
        """Raises ValueError unless `raw` is exactly the bytes of `shape`."""
        shape = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
        if not all(type(length) is int and length >= 0 for length in shape) or len(shape) > 32:
            raise ValueError(f"array of shape {shortly(shape)}")
        if not isinstance(raw, bytes | bytearray) or len(raw) != math.prod(shape) * self._dtype.itemsize:
            raise ValueError(f"array of shape {shape} and type {self._dtype} with other bytes than that needs")
        if self._dtype.itemsize == 0:
            raise ValueError(f"array of shape {shape} of empty texts")
        _take(len(raw))
        return np.frombuffer(bytearray(raw), self._dtype).reshape(shape, order="F" if fortran else "C")


class _Restored(np.ndarray):
    """An array whose content arrives after it was made, as pickles have it."""

    def __setstate__(self, state: Any) -> None:
        """(version, shape, type, Fortran order, bytes)."""
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Elements):
            raise _Refused("holds an array in a form that is not known to be safe")
        _, shape, elements, fortran, raw = state
        if isinstance(raw, list):
            raise _Refused("holds an array of objects, not of numbers")
        array = elements.array(shape, raw, bool(fortran))
        checked: Any = (1, array.shape, array.dtype, bool(fortran), array.tobytes("F" if fortran else "C"))
        super().__setstate__(checked)


def _empty_array(kind: object, shape: object, code: object) -> np.ndarray:
    if kind is not _ARRAY or shape != (0,) or code not in (b"b", "b"):
        raise _Refused("makes an array in a form that is not known to be safe")
    return np.empty(0, np.int8).view(_Restored)


def _array_from_buffer(raw: object, elements: object, shape: object, order: object, axes: Any = None) -> np.ndarray:
    """Order `K`, which newer NumPy writes, is C with the axes then permuted."""
    if not isinstance(elements, _Elements) or order not in ("C", "F", "K") or (order == "K") != isinstance(axes, tuple):
        raise _Refused("makes an array in a form that is not known to be safe")
    array = elements.array(shape, raw, order == "F")
    return array.transpose(axes) if order == "K" else array


def _scalar(elements: object, raw: object) -> object:
    if not isinstance(elements, _Elements):
        raise _Refused("holds a number in a form that is not known to be safe")
    return elements.array((), raw, False).item()


def _array_itself(*_: object) -> None:
    raise _Refused("makes an array in a form that is not known to be safe")


def _encode(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise _Refused(f"wants to encode text as {shortly(encoding)}")
    _take(len(text))
    return text.encode("latin-1")


def _plain(kind: Callable[..., Any]) -> Callable[..., Any]:
    """`kind` of nothing or of one container: no number as argument, because bytes(10**12) fills the memory."""

    def make(*args: object) -> Any:
        if len(args) > 1 or not all(
            isinstance(arg, bytes | bytearray | list | tuple | set | frozenset) for arg in args
        ):
            raise ValueError(f"{kind.__name__} of {shortly(args)}")
        _take(sum(_written_out(arg) for arg in args))
        return kind(*args)

    return make


def _bytearray(*args: object) -> bytearray:
    return bytearray(_encode(*args)) if len(args) == 2 else _plain(bytearray)(*args)


_ARRAY = _Stand(_array_itself)
_PLAIN: dict[str, Callable[..., Any]] = {
    "bytearray": _bytearray,
    **{kind.__name__: _plain(kind) for kind in (bytes, dict, set, frozenset)},
}
_TABLE: dict[tuple[str, str], _Stand] = {
    ("collections", "OrderedDict"): _Stand(_plain(dict)),  # a dict keeps its order, and has no attributes to set
    ("_codecs", "encode"): _Stand(_encode),
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): _Stand(_Elements),
    **{(module, name): _Stand(make) for module in ("builtins", "__builtin__") for name, make in _PLAIN.items()},
    **{
        (f"numpy.{core}.{module}", name): _Stand(make)
        for core in ("core", "_core")
        for module, name, make in (
            ("multiarray", "_reconstruct", _empty_array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _array_from_buffer),
        )
    },
}
