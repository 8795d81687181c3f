"""What a value may be, read from the messages of jsonargparse and pydantic."""

from __future__ import annotations

import re

from kat.settings import describe

_TYPES = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
}
_ITEMS = {"int": "integers", "float": "numbers", "str": "texts"}
_EXPECTED = re.compile(
    r"(Input should be .*?) \[type=|Expected a (tuple with \d+ elements)|"
    r"(list\[\w+\])(?=[,\]])|<class '(\w+)'>|typing\.Literal\[(.*?)\]"
)


def wanted_value(text: str) -> str:
    """What a value may be, from the message of jsonargparse or of pydantic within it."""
    text = re.sub(r"Errors: .*", "", text)  # the types before it say the same
    found = []
    for ranged, several, listed, kind, literals in _EXPECTED.findall(text):
        if several:
            found.append(f"a list of {several.split()[2]} values")
        elif listed:
            found.append(f"a list of {_ITEMS.get(listed[5:-1], 'values')}")
        else:
            known = ranged or _TYPES.get(kind, "")
            found.append(known or re.sub(r",(?=[^,]*$)", " or", literals))
    return describe([wanted for wanted in found if wanted])
