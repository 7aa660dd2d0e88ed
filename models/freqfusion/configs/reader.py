# SPDX-License-Identifier: Apache-2.0
"""Reads a config as data: Python assignments, JSON or a dictionary; what only execution could tell is marked."""

from __future__ import annotations

import ast
import json
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

MAX_CHARACTERS = 4_000_000
"""A longer text is not read; expanded configs of mm have a tenth of a million at most."""
_MAX_ITEMS = 100_000  # of one list or text made by an operator: `[0] * 10**9` is not carried out
_MAX_MADE = 5_000_000  # of all lists, dictionaries and texts that are made
_MAX_NODES = 1_000_000  # of a pickled config as a tree: lists that hold each other double it with every one
_MAX_COPIED_DEPTH, _MAX_DEPTH = 100, 200  # of a pickled config, and of one whose lists are as its text made them
_LARGE = 1e18  # of numbers that are calculated with; powers, which grow without bound, are not
_NUMBERS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_BASE = "_base_"
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Unread:
    """A value that only execution could tell.

    Attributes:
        source: The expression, shortened.
    """

    source: str

    def __str__(self) -> str:
        return self.source


@dataclass(frozen=True)
class Config:
    """A config's values.

    Attributes:
        values: By name at the top level; plain data, ``Unread`` in it where only execution could tell.
        bases: Files that it builds on and that were not read along.
        problem: Why nothing could be read, as a sentence; empty if it could.
        source: Where it comes from, for messages.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    bases: tuple[str, ...] = ()
    problem: str = ""
    source: str = "the checkpoint"

    @property
    def is_whole(self) -> bool:
        """Whether nothing is hidden in files it builds on, so that a key which is missing has mm's own default."""
        return bool(self.values) and not self.bases and not self.problem


def read_config(content: Any, source: str = "the checkpoint") -> Config:
    """Reads a config of mm 0.x or 1.x, written out or with ``_base_``, or a dictionary.

    Args:
        content: Text of Python or JSON, a dictionary, or None for no config.
        source: What to call it in messages.

    Returns:
        Its values; ``problem`` says why there are none. Nothing is raised: a checkpoint whose config cannot be read is
        a checkpoint without one.
    """
    if content is None:
        return Config(source=source)
    try:
        if isinstance(content, Mapping):
            _check_tree(content)
            return _finished(_plain(content), source)
        if not isinstance(content, str):
            return Config(problem=f"it is a {type(content).__name__}, not text", source=source)
        if len(content) > MAX_CHARACTERS:
            return Config(problem=f"it has {len(content)} characters, at most {MAX_CHARACTERS} are read", source=source)
        if content.lstrip().startswith("{"):
            return _finished(_plain(json.loads(content)), source)
        return _finished(_Reader().module(ast.parse(content)), source)
    except SyntaxError as e:
        return Config(problem=f"it is not Python (line {e.lineno}: {e.msg})", source=source)
    except json.JSONDecodeError as e:
        return Config(problem=f"it is not JSON ({e})", source=source)
    except _TooMuchError as e:
        return Config(problem=f"it is no config of a network: {e}", source=source)
    except (ValueError, RecursionError, MemoryError) as e:  # ast and json raise these for what is nested too deep
        return Config(problem=f"it cannot be parsed ({type(e).__name__}: {e})", source=source)


def read_config_file(path: Path) -> Config:
    """Reads a config file, and the files named in ``_base_`` that lie beside it, later ones and itself on top.

    Raises:
        OSError: If it cannot be read.
    """
    return _read_file(path, ())


def _read_file(path: Path, above: tuple[Path, ...]) -> Config:
    config = read_config(path.read_text(encoding="utf-8", errors="replace"), str(path))
    merged: dict[str, Any] = {}
    missing: list[str] = []
    for name in config.bases:
        place = path.parent / name
        if not os.path.isfile(place) or (base := place.resolve()) in above or len(above) > 20:
            missing.append(name)
            continue
        below = _read_file(base, (*above, path.resolve()))
        missing += [name] if below.problem else below.bases
        merged = merge(merged, below.values)
    return Config(merge(merged, config.values), tuple(missing), config.problem, config.source)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Puts a config on top of its base as mm does: dictionaries are merged unless ``_delete_`` says otherwise."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        if not isinstance(value, dict):
            result[key] = value
        elif value.get("_delete_") is True or not isinstance(old, dict):
            result[key] = {name: part for name, part in value.items() if name != "_delete_"}
        else:
            result[key] = merge(old, value)
    return result


class _TooMuchError(Exception):
    """What a config says is too much to be one."""


def _check_tree(values: Any) -> None:
    """Makes sure that a copy of the values, in which nothing is shared, stays small.

    Raises:
        _TooMuchError: If they are nested too deep, or have very many parts when what is shared is counted each time.
    """
    left, nodes = [(values, 0)], 0
    while left:
        value, depth = left.pop()
        inner = _inside(value)
        nodes += len(inner)
        if depth > _MAX_COPIED_DEPTH or nodes > _MAX_NODES:
            raise _TooMuchError(
                f"it is nested more than {_MAX_COPIED_DEPTH} deep"
                if depth > _MAX_COPIED_DEPTH
                else f"it has more than {_MAX_NODES} parts, those that are shared counted each time"
            )
        left += [(item, depth + 1) for item in inner]


def _height(value: Any, heights: dict[int, int], depth: int = 0) -> int:
    """How deep a value is nested; what is shared is looked at once.

    Raises:
        _TooMuchError: If that is too deep for who walks through it, or the value holds itself.
    """
    inner = _inside(value)
    if not inner:
        return 0
    height = heights.get(id(value))
    if height is None and depth <= _MAX_DEPTH:
        height = heights[id(value)] = 1 + max(_height(item, heights, depth + 1) for item in inner)
    if height is None or depth + height > _MAX_DEPTH:
        raise _TooMuchError(f"it is nested more than {_MAX_DEPTH} deep")
    return height


def _inside(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []


def _finished(values: dict[str, Any], source: str) -> Config:
    _height(values, {})
    bases = values.pop(_BASE, ())
    names = [bases] if isinstance(bases, str) else bases if isinstance(bases, list | tuple) else [str(bases)]
    lazy = values.pop(_LAZY, ())
    return Config(values, (*map(str, names), *lazy), source=source)


def _plain(value: Any, depth: int = 0) -> Any:
    """Copies dictionaries, lists and numbers of any class; other objects are marked."""
    if depth > _MAX_COPIED_DEPTH:
        raise RecursionError(f"nested more than {_MAX_COPIED_DEPTH} deep")
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item, depth + 1) for item in value) if type(value) in (list, tuple) else list(value)
    return value if isinstance(value, str | int | float | bool | None) else Unread(type(value).__name__)


_LAZY = "a mm 1.x config in pure Python"  # no name that a config can assign


class _Reader:
    """Carries out assignments of plain data, in order; every other statement only marks the names that it assigns."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self.lazy: list[str] = []
        self.made = 0

    def module(self, tree: ast.Module) -> dict[str, Any]:
        for statement in tree.body:
            self._statement(statement)
        values = {name: value for name, value in self.names.items() if not name.startswith("__")}
        return {**values, _LAZY: tuple(self.lazy)} if self.lazy else values

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Assign):
            value = self.value(node.value)
            for place in node.targets:
                self._assign(place, value)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            self._assign(node.target, self.value(node.value))
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            target = ast.Name(node.target.id, ast.Load())
            old, new = self.value(target), self.value(ast.BinOp(target, node.op, node.value))
            if isinstance(old, list) and isinstance(new, list):
                old[:] = new  # the same list, whoever else has it
            else:
                self.names[node.target.id] = new
        elif isinstance(node, ast.Expr) and _update_of(node.value) is not None:
            self._update(node.value)
        else:
            if isinstance(node, ast.With):
                self.lazy += [_source(part) for part in node.body]
            for name in _assigned(node):
                self.names[name] = Unread(f"{name} of `{_source(node)}`")

    def _assign(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = value
        elif isinstance(target, ast.Subscript):
            holder, key = self.value(target.value), self.value(target.slice)
            try:
                holder[key] = value  # shared with every name of the same object, as in Python
            except (TypeError, IndexError, KeyError):
                self._forget(target)
        elif isinstance(target, ast.Tuple | ast.List) and isinstance(value, list | tuple):
            for part, item in zip(target.elts, value, strict=False):
                self._assign(part, item)
        else:
            self._forget(target)

    def _update(self, call: ast.expr) -> None:
        """Carries out ``name.update(...)``, ``name.append(...)`` and their like, or marks the name."""
        assert isinstance(call, ast.Call)
        assert isinstance(call.func, ast.Attribute)
        holder = self.value(call.func.value)
        arguments = [self.value(argument) for argument in call.args]
        named = self._pairs((keyword.arg, keyword.value) for keyword in call.keywords)
        method = call.func.attr
        if method == "update" and isinstance(holder, dict) and all(isinstance(part, dict) for part in arguments):
            for part in (*arguments, named):
                holder.update(self._counted(part))
        elif method in ("append", "extend", "insert") and isinstance(holder, list) and not named:
            items = arguments[-1]
            if method == "append":
                holder.append(items)
            elif method == "insert" and len(arguments) == 2 and isinstance(arguments[0], int):
                holder.insert(arguments[0], items)
            elif isinstance(items, list | tuple) and len(items) + len(holder) <= _MAX_ITEMS:
                holder.extend(self._counted(items))
            else:
                self._forget(call.func.value)
        else:
            self._forget(call.func.value)

    def _forget(self, node: ast.expr) -> None:
        """Marks what ``node`` names: something unknown was done to it."""
        while isinstance(node, ast.Subscript | ast.Attribute):
            node = node.value
        if isinstance(node, ast.Name):
            self.names[node.id] = Unread(f"{node.id}, changed by code")

    def value(self, node: ast.expr) -> Any:
        """Works out an expression of plain data; anything else is ``Unread``."""
        by_kind: dict[type[ast.expr], Callable[[Any], Any]] = {
            ast.Constant: lambda n: n.value,
            ast.Name: lambda n: self.names.get(n.id, Unread(n.id)),
            ast.List: lambda n: self._counted(list(self._items(n.elts))),
            ast.Tuple: lambda n: self._counted(tuple(self._items(n.elts))),
            ast.Dict: lambda n: self._pairs((k and self._key(k), v) for k, v in zip(n.keys, n.values)),  # noqa: B905
            ast.Call: lambda n: self._counted(self._call(n)),
            ast.UnaryOp: self._unary,
            ast.BinOp: lambda n: self._counted(_arithmetic(n.op, self.value(n.left), self.value(n.right))),
            ast.Subscript: self._subscript,
            ast.Attribute: lambda n: self.value(n.value)[n.attr],  # mm's dictionaries allow it
            ast.IfExp: self._choice,
        }
        try:
            return by_kind[type(node)](node)
        except (KeyError, IndexError, TypeError, ValueError, ArithmeticError):
            return Unread(_source(node))

    def _items(self, nodes: Sequence[ast.expr]) -> Iterator[Any]:
        for node in nodes:
            if not isinstance(node, ast.Starred):
                yield self.value(node)
                continue
            value = self.value(node.value)
            yield from value if isinstance(value, list | tuple) else [Unread(_source(node))]

    def _pairs(self, pairs: Iterable[tuple[str | None, ast.expr]]) -> dict[str, Any]:
        """Builds a dictionary; a pair without a key unpacks another one into it."""
        result: dict[str, Any] = {}
        for key, node in pairs:
            value = self.value(node)
            if key is not None:
                result[key] = value
            else:
                result |= value if isinstance(value, dict) else {f"**{_source(node)}": value}
        return self._counted(result)

    def _key(self, node: ast.expr) -> str:
        value = self.value(node)
        return str(value) if isinstance(value, str | int | float | Unread | None) else _source(node)

    def _counted(self, made: _Made) -> _Made:
        """Adds what was made to all that was made before.

        Raises:
            _TooMuchError: If it is too much: a line of a config can copy a list, and there may be very many lines.
        """
        self.made += len(made) if isinstance(made, list | tuple | str | dict) else 0
        if self.made > _MAX_MADE:
            raise _TooMuchError(f"its lists and texts have more than {_MAX_MADE} items in all")
        return made

    def _call(self, node: ast.Call) -> Any:
        """Builds what ``dict``, ``list``, ``tuple``, ``int`` and ``float`` do of plain data; calls nothing else."""
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in self.names:  # the config's own, whatever it is
            raise TypeError
        arguments = list(self._items(node.args))
        if name in ("dict", "OrderedDict", "ConfigDict"):
            result: dict[str, Any] = {}
            for part in arguments:
                result |= dict(part)
            return result | self._pairs((keyword.arg, keyword.value) for keyword in node.keywords)
        kinds: dict[str, Callable[..., Any]] = {"list": list, "tuple": tuple, "int": int, "float": float}
        of = list | tuple if name in ("list", "tuple") else int | float | str
        if node.keywords or len(arguments) > 1 or not all(isinstance(part, of) for part in arguments):
            raise TypeError
        return kinds[name](*arguments)

    def _unary(self, node: ast.UnaryOp) -> Any:
        value = self.value(node.operand)
        if isinstance(node.op, ast.Not) and isinstance(value, bool):
            return not value
        if isinstance(value, Unread) or isinstance(node.op, ast.Not | ast.Invert):
            raise TypeError
        return -value if isinstance(node.op, ast.USub) else +value

    def _subscript(self, node: ast.Subscript) -> Any:
        holder = self.value(node.value)
        if not isinstance(node.slice, ast.Slice):
            return holder[self.value(node.slice)]
        parts = (node.slice.lower, node.slice.upper, node.slice.step)
        return self._counted(holder[slice(*(None if part is None else self.value(part) for part in parts))])

    def _choice(self, node: ast.IfExp) -> Any:
        test = self.value(node.test)
        if not isinstance(test, bool):
            raise TypeError
        return self.value(node.body if test else node.orelse)


def _arithmetic(kind: ast.operator, left: Any, right: Any) -> Any:
    """Adds, multiplies and the like numbers, and adds or repeats lists and texts as far as that stays small.

    Raises:
        TypeError: For anything else.
    """
    sequences, numbers = (list, tuple, str), (int, float)
    if isinstance(kind, ast.Add) and type(left) is type(right) and isinstance(left, sequences):
        if len(left) + len(right) <= _MAX_ITEMS:
            return left + right
    elif isinstance(kind, ast.Mult) and isinstance(left, sequences) and isinstance(right, int):
        if len(left) * max(right, 0) <= _MAX_ITEMS:
            return left * right
    elif isinstance(left, numbers) and isinstance(right, numbers) and max(abs(left), abs(right)) < _LARGE:
        return _NUMBERS[type(kind)](left, right)
    raise TypeError


def _update_of(node: ast.expr) -> ast.expr | None:
    """The thing whose method a bare call is of."""
    return node.func.value if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else None


def _assigned(node: ast.stmt) -> Iterator[str]:
    """Names that a statement may bind."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store | ast.Del):
            yield part.id
        elif isinstance(part, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield part.name
        elif isinstance(part, ast.alias):
            yield (part.asname or part.name).partition(".")[0]


def _source(node: ast.AST) -> str:
    try:
        text = " ".join(ast.unparse(node).split())
    except (RecursionError, ValueError):
        text = "an expression nested too deep"
    return text if len(text) <= 60 else text[:57] + "..."
