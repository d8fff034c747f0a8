"""Cards: typed literals that describe a module, read from its source without importing it."""

import ast
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from data.errors import RequestError, unknown


def read_card[Card](file: Path, card_class: type[Card]) -> Card:
    """The ``CARD`` of a module: a call of a frozen dataclass whose arguments are literals.

    Arguments may be further dataclasses, as far as the fields of `card_class` name them.

    Raises:
        RequestError: no card, an unknown or missing field, a value of another type, or one that is not a literal; the
            message names the file and the field.
    """
    for node in parsed(file).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(getattr(target, "id", None) == "CARD" for target in targets):
            return _value(node.value, card_class, f"{file}: CARD")  # type: ignore[attr-defined]
    raise RequestError(f"{file}: CARD is missing; add CARD = {card_class.__name__}(...)")


@cache
def parsed(file: Path) -> ast.Module:
    """A module's syntax tree."""
    return ast.parse(file.read_text(encoding="utf-8"))


def _value(node: ast.expr, expected: Any, where: str) -> Any:
    """A literal's value, checked against a type annotation."""
    choices = typing.get_args(expected) if isinstance(expected, types.UnionType) else (expected,)
    if isinstance(node, ast.Call):
        by_name = {kind.__name__: kind for kind in choices if is_dataclass(kind) and isinstance(kind, type)}
        name = getattr(node.func, "id", None) or ast.unparse(node.func)
        if name not in by_name:
            raise RequestError(f"{where}: {name}(...) found, expected {_words(expected)}")
        return _call(node, by_name[name], where)
    if isinstance(node, ast.Dict | ast.List | ast.Tuple):
        return _container(node, choices, expected, where)
    try:
        value = ast.literal_eval(node)
    except ValueError as error:
        raise RequestError(f"{where}: '{ast.unparse(node)}' is not a literal; write the value itself") from error
    if not any(_fits(value, kind) for kind in choices):
        raise RequestError(f"{where}: {value!r} found, expected {_words(expected)}")
    return value


def _call(node: ast.Call, kind: type, where: str) -> Any:
    known = {field.name: field for field in fields(kind)}
    if node.args or any(word.arg is None for word in node.keywords):
        raise RequestError(f"{where}: {kind.__name__} takes keyword arguments only, as in title='...'")
    given = {word.arg: word.value for word in node.keywords if word.arg}
    for name in given:
        if name not in known:
            raise RequestError(f"{where}: {unknown(f'field of {kind.__name__}', name, sorted(known))}")
    for name, field in known.items():
        if name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise RequestError(f"{where}: the field '{name}' of {kind.__name__} is missing")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _value(value, hints[name], f"{where}.{name}") for name, value in given.items()})


def _container(node: ast.Dict | ast.List | ast.Tuple, choices: Sequence[Any], expected: Any, where: str) -> Any:
    """A dict, list or tuple, each element checked; lists and tuples are not interchangeable."""
    kind = {ast.Dict: dict, ast.List: list, ast.Tuple: tuple}[type(node)]
    for choice in choices:
        origin = typing.get_origin(choice) or choice
        if choice is not Any and not (isinstance(origin, type) and issubclass(kind, origin)):
            continue
        inner = typing.get_args(choice)
        if isinstance(node, ast.Dict):
            of_key, of_value = inner or (Any, Any)
            items = [(key, value) for key, value in zip(node.keys, node.values, strict=True) if key is not None]
            pairs = [(_value(key, of_key, where), key, value) for key, value in items]
            return {name: _value(value, of_value, f"{where}[{ast.unparse(key)}]") for name, key, value in pairs}
        each = inner if kind is tuple and inner and ... not in inner else (*inner[:1], Any)[:1] * len(node.elts)
        if len(each) == len(node.elts):
            pairs = zip(node.elts, each, strict=True)
            return kind(_value(element, of_one, f"{where}[{i}]") for i, (element, of_one) in enumerate(pairs))
    raise RequestError(f"{where}: a {kind.__name__} found, expected {_words(expected)}")


def _fits(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if typing.get_origin(kind) is typing.Literal:
        return any(value == one and type(value) is type(one) for one in typing.get_args(kind))
    if kind is float:
        return type(value) in (int, float)
    return value is None if kind in (None, type(None)) else type(value) is kind


def _words(expected: Any) -> str:
    return expected.__name__ if isinstance(expected, type) and not typing.get_args(expected) else str(expected)
