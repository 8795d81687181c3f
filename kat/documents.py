"""Write JSON; read JSON and YAML within bounds of size and, through aliases, of growth."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from kat.errors import InputError
from kat.files import read_bytes, read_text, write_text

JSON_LIMIT = 1 << 33
"""Bytes that a JSON file may have; the largest annotations of public datasets have 2 GB."""
YAML_LIMIT = 1 << 20
"""Bytes that a file of settings may have; PyYAML takes seconds for a megabyte."""
_NODES = 100_000
"""The most values in a YAML document, after each alias is replaced by what it stands for."""
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
"""Numbers such as 1e-3, which are text to PyYAML, and numbers to everybody else."""


def write_json(path: str | Path, content: object) -> None:
    """Write a JSON file with an entry a line, completely or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: str | Path) -> Any:
    """Return the contents of a JSON file.

    Raises:
        InputError: the file cannot be read, or is not valid JSON.
    """
    return parse_json(read_bytes(path, JSON_LIMIT), path)


def parse_json(content: bytes | str, source: object) -> Any:
    """Return the value of a JSON text; ``source`` names it in the message.

    Raises:
        InputError: it is not valid JSON.
    """
    try:
        return json.loads(content)
    except (RecursionError, ValueError) as error:
        raise InputError(f"{source} is not valid JSON: {error}") from None


def read_yaml(path: Path) -> Any:
    """Return the contents of a YAML file, of plain types only.

    Raises:
        InputError: the file cannot be read, is not valid YAML, has a key twice in a mapping, or has
            aliases that stand for too much.
    """
    return parse_yaml(read_text(path, YAML_LIMIT), path)


def parse_yaml(content: bytes | str, source: object) -> Any:
    """Return the value of a YAML text; see :func:`read_yaml`. Messages name the ``source``."""
    import yaml  # the core of the library reads only JSON

    try:
        return yaml.load(content, _loader())
    except (RecursionError, yaml.YAMLError, ValueError) as error:  # ValueError: a wrong date
        raise InputError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from None


@cache
def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """A safe loader that refuses a key that is there twice, and aliases that explode."""

        def __init__(self, stream: Any) -> None:
            super().__init__(stream)
            self.sizes: dict[int, int] = {}

        def compose_node(self, parent: Any, index: Any) -> Any:
            is_alias = self.check_event(yaml.AliasEvent)
            node = super().compose_node(parent, index)
            if node.tag.endswith((":int", ":float")) and ":" in node.value:
                node.tag = "tag:yaml.org,2002:str"  # 1:30:00, which PyYAML reads in base 60
            if not is_alias:
                self.sizes[id(node)] = self._size(node)
            if self.sizes.get(id(node), _NODES + 1) > _NODES:  # an alias within what it stands for
                raise yaml.YAMLError(f"it has more than {_NODES} values once aliases are replaced")
            return node

        def _size(self, node: Any) -> int:
            if isinstance(node, yaml.ScalarNode):
                return 1
            parts = node.value
            if isinstance(node, yaml.MappingNode):
                keys = Counter((k.tag, k.value) for k, _ in parts if isinstance(k, yaml.ScalarNode))
                for (_, name), count in keys.items():
                    if count > 1 and name != "<<":
                        raise yaml.YAMLError(
                            f"{name!r} is twice in the mapping of line {node.start_mark.line + 1}"
                        )
                parts = chain.from_iterable(parts)
            return 1 + sum(self.sizes[id(part)] for part in parts)

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))
    return Loader
