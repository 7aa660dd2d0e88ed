# SPDX-License-Identifier: Apache-2.0
"""A pickle machine that imports nothing and calls nothing but constructors of plain data."""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, BinaryIO

from freqfusion.checkpoint_files.placeholders import Inert
from freqfusion.checkpoint_files.plain_data import Buildable, Constructor, as_key, construct, find_global
from freqfusion.errors import CheckpointError

_LARGE = 1 << 16


def unpickle(
    file: BinaryIO,
    find_storage: Callable[[Any], Any] | None = None,
    constructors: Mapping[str, Callable[..., Any]] = MappingProxyType({}),
) -> Any:
    """Reads one pickle, of any protocol, and leaves ``file`` behind its end.

    Plain data, tensors and numpy arrays are rebuilt; every other object becomes an :class:`Inert`.

    Args:
        file: Seekable.
        find_storage: Given a persistent id, as ``torch.save`` writes one for each storage; None where there are none.
        constructors: Of plain data, by the global's path, beside those of ``plain_data``.

    Raises:
        CheckpointError: If the pickle asks for a function that runs commands.
        Exception: Any, if it is damaged.
    """
    machine = _Machine(find_storage, constructors)
    for opcode, argument, _ in pickletools.genops(_Reader(file)):  # type: ignore[arg-type]
        step = _STEPS.get(opcode.name)
        if step is None:
            machine.stack.append(argument)
        else:
            step(machine, argument)
    return machine.stack.pop()


class _Reader:
    """A file for ``pickletools``; what is large comes as a bytearray, so that tensors can share its memory."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.readline = file.readline
        start = file.tell()
        self.size = file.seek(0, io.SEEK_END)
        file.seek(start)

    def read(self, count: int) -> bytes | bytearray:
        if count < _LARGE:
            return self.file.read(count)
        if count > self.size - self.file.tell():  # before memory is reserved for it
            raise ValueError(f"{count} bytes are announced where {self.size - self.file.tell()} are left")
        buffer = bytearray(count)
        self.file.readinto(buffer)  # type: ignore[attr-defined]
        return buffer


class _Machine:
    def __init__(
        self, find_storage: Callable[[Any], Any] | None, constructors: Mapping[str, Callable[..., Any]]
    ) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: dict[int, Any] = {}
        self.find_storage = find_storage
        self.constructors = constructors

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_global(self, module: Any, name: Any) -> None:
        self.push(self.find_global(module, name))

    def find_global(self, module: Any, name: Any) -> Any:
        path = f"{module}.{name}"
        return Constructor(path, self.constructors[path]) if path in self.constructors else find_global(module, name)

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_to_mark()

    def gather(self, count: int) -> None:
        self.stack[len(self.stack) - count :] = [tuple(self.stack[len(self.stack) - count :])]

    def remember(self, place: Any) -> None:
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Inert):
            raise TypeError(f"items for a {type(target).__name__}, which is no list")

    def add(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, set):
            target.update(map(as_key, items))
        elif not isinstance(target, Inert):
            raise TypeError(f"members for a {type(target).__name__}, which is no set")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        target = target.items if isinstance(target, Inert) else target
        if not isinstance(target, dict):
            raise TypeError(f"entries for a {type(target).__name__}, which is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[as_key(key)] = value

    def make_dict(self, _: Any) -> None:
        items = self.pop_to_mark()
        self.push({})
        self.set_items(items)

    def call(self, function: Any, arguments: Any) -> None:
        self.push(construct(function, tuple(arguments)))

    def reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.call(function, arguments)

    def new_with_keywords(self, _: Any) -> None:
        keywords, arguments, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        # None of the constructors here takes keywords.
        self.push(Inert(getattr(function, "name", "object")) if keywords else construct(function, tuple(arguments)))

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Buildable):
            target.build(state)
        elif isinstance(target, Inert):
            target.state = state  # of anything else, such as attributes of an OrderedDict, it is dropped

    def inst(self, names: str) -> None:
        arguments = self.pop_to_mark()
        self.call(self.find_global(*names.split(" ", 1)), arguments)

    def obj(self, _: Any) -> None:
        function, *arguments = self.pop_to_mark()
        self.call(function, arguments)

    def stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.push_global(module, name)

    def storage(self, identifier: Any) -> None:
        if self.find_storage is None:
            raise ValueError("it refers to data outside the pickle")
        self.push(self.find_storage(identifier))

    def outside(self, _: Any) -> None:
        raise CheckpointError("the pickle's arrays lie outside the file, in buffers; save it without buffer_callback")


# What to do at each opcode, with its argument; those that are not here push their argument.
_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "STOP": lambda m, _: None,
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_SET": lambda m, _: m.push(set()),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": lambda m, _: m.pop_to_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "LIST": lambda m, _: m.push(m.pop_to_mark()),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, _: m.gather(1),
    "TUPLE2": lambda m, _: m.gather(2),
    "TUPLE3": lambda m, _: m.gather(3),
    "DICT": _Machine.make_dict,
    "FROZENSET": lambda m, _: m.push(frozenset(map(as_key, m.pop_to_mark()))),
    "APPEND": lambda m, _: m.append([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append(m.pop_to_mark()),
    "ADDITEMS": lambda m, _: m.add(m.pop_to_mark()),
    "SETITEM": lambda m, _: m.set_items([m.stack.pop(), m.stack.pop()][::-1]),
    "SETITEMS": lambda m, _: m.set_items(m.pop_to_mark()),
    "GET": lambda m, place: m.push(m.memo[place]),
    "BINGET": lambda m, place: m.push(m.memo[place]),
    "LONG_BINGET": lambda m, place: m.push(m.memo[place]),
    "PUT": _Machine.remember,
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": _Machine.remember,
    "GLOBAL": lambda m, names: m.push_global(*names.split(" ", 1)),
    "STACK_GLOBAL": _Machine.stack_global,
    "EXT1": lambda m, code: m.push(Inert(f"extension {code}")),
    "EXT2": lambda m, code: m.push(Inert(f"extension {code}")),
    "EXT4": lambda m, code: m.push(Inert(f"extension {code}")),
    "INST": _Machine.inst,
    "OBJ": _Machine.obj,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.new_with_keywords,
    "BUILD": _Machine.build,
    "PERSID": _Machine.storage,
    "BINPERSID": lambda m, _: m.storage(m.stack.pop()),
    "NEXT_BUFFER": _Machine.outside,
    "READONLY_BUFFER": _Machine.outside,
}
