"""Reading JSON and YAML within bounds of size, depth and, through aliases, of growth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kat.errors import InputError
from kat.files import read_bytes

JSON_LIMIT = 1 << 33
"""In bytes. The largest annotations of public datasets have 2 GB."""
YAML_LIMIT = 1 << 22
"""In bytes; the files are settings, and PyYAML takes seconds for a megabyte."""
_DEPTH = 64
"""The most levels of lists and mappings in one another. Functions that walk them are recursive."""
_NODES = 1_000_000
"""The most values in a document of settings, after each alias is replaced by what it stands for."""
_SMALL = YAML_LIMIT
"""In bytes: JSON up to this size is settings or results, which are walked by recursive functions;
of larger files, which are annotations, only known fields are read."""


def read_json(path: str | Path, limit: int = JSON_LIMIT) -> Any:
    """The contents of a JSON file.

    Raises:
        InputError: the file cannot be read, is not valid JSON, or is nested too deeply.
    """
    return parse_json(read_bytes(path, limit), path)


def parse_json(content: bytes | str, source: object) -> Any:
    """The value of a JSON text.

    Args:
        content: the text.
        source: where it comes from, for the message.

    Raises:
        InputError: it is not valid JSON, or nested too deeply.
    """
    try:
        value = json.loads(content)
    except RecursionError:
        raise InputError(_too_deep(source)) from None
    except ValueError as error:
        raise InputError(f"{source} is not valid JSON: {error}") from None
    if len(content) <= _SMALL:
        _check_bounds(value, _items, len(content), source)
    return value


def read_yaml(path: Path) -> Any:
    """The contents of a YAML file, plain types alone.

    Raises:
        InputError: the file cannot be read, is not valid YAML, is nested too deeply, or has aliases
            that stand for too much.
    """
    return parse_yaml(read_bytes(path, YAML_LIMIT), path)


def parse_yaml(content: bytes | str, source: object) -> Any:
    """The value of a YAML text, plain types alone; see :func:`read_yaml`.

    Args:
        content: the text.
        source: where it comes from, for the message.
    """
    import yaml  # the core of the library reads JSON alone

    try:
        loader = yaml.SafeLoader(content)
        node = loader.get_single_node()
        _check_bounds(node, _nodes, _NODES, source)  # before merge keys copy what aliases stand for
        _check_keys(node, source)
        return None if node is None else loader.construct_document(node)
    except RecursionError:
        raise InputError(_too_deep(source)) from None
    except InputError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-13-45
        raise InputError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from None


def _check_keys(root: Any, source: object) -> None:
    """Refuses a key that a mapping has twice, of which YAML keeps the last value alone."""
    rest, checked = [root], set()
    while rest:
        node = rest.pop()
        if node is None or id(node) in checked:
            continue
        checked.add(id(node))
        rest += _nodes(node)
        seen = set()
        for key, _ in node.value if node.id == "mapping" else ():
            if key.id != "scalar" or key.value == "<<":
                continue
            if (key.tag, key.value) in seen:  # '1' and 1 are two keys
                line = key.start_mark.line + 1
                raise InputError(f"{source}, line {line}: {key.value!r} is there twice")
            seen.add((key.tag, key.value))


def _check_bounds(
    root: Any, parts: Callable[[Any], Iterable[Any]], most: int, source: object
) -> None:
    count, rest = 0, [(root, 0)]
    while rest:
        value, depth = rest.pop()
        inner = [(part, depth + 1) for part in parts(value)]
        count += len(inner)
        if inner and depth >= _DEPTH:
            raise InputError(_too_deep(source))
        if count > most:
            raise InputError(f"{source} holds more than {most} values once aliases are replaced")
        rest += inner


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _nodes(node: Any) -> Iterable[Any]:
    import yaml

    if isinstance(node, yaml.MappingNode):
        return (part for pair in node.value for part in pair)
    return node.value if isinstance(node, yaml.SequenceNode) else ()


def _too_deep(source: object) -> str:
    return f"{source} is nested too deeply: more than {_DEPTH} levels"
