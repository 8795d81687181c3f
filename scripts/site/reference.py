"""Writes the help of every command and the table of settings into two pages of the reference.

The pages hold a marker, which the text from the code replaces. Names of torch and timm become links
without a look at the network. A hook of mkdocs.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import asdict
from inspect import getdoc
from typing import Any, get_type_hints

import griffe

import kat_command
from kat.cli.main import COMMANDS, GROUPS
from kat.settings import adapter
from kat.training import TrainConfig

WIDTH = "100"
"""Columns of the help."""
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
WORDS = {"string": "text", "null": "`null`", "boolean": "`true`, `false`", "object": "mapping"}
CODE = re.compile(r"(``.+?``)")
TORCH = "https://docs.pytorch.org/docs/stable"
TIMM = "https://github.com/huggingface/pytorch-image-models/blob/main/timm"
ELSEWHERE = {
    "torch.Tensor": f"{TORCH}/tensors.html#torch.Tensor",
    "torch.device": f"{TORCH}/tensor_attributes.html#torch.device",
    "torch.dtype": f"{TORCH}/tensor_attributes.html#torch.dtype",
    "torch.nn.Linear": f"{TORCH}/generated/torch.nn.Linear.html",
    "torch.nn.Module": f"{TORCH}/generated/torch.nn.Module.html",
    "torch.utils.data.DataLoader": f"{TORCH}/data.html#torch.utils.data.DataLoader",
    "torch.utils.data.Dataset": f"{TORCH}/data.html#torch.utils.data.Dataset",
    "timm.layers.Mlp": f"{TIMM}/layers/mlp.py",
    "timm.layers.SwiGLU": f"{TIMM}/layers/mlp.py",
    "timm.models.vision_transformer.VisionTransformer": f"{TIMM}/models/vision_transformer.py",
}
"""Where the types in signatures are documented that kat does not define."""


def on_config(config: Any) -> None:
    """Tells the plugin of references where those names are."""
    for name, url in ELSEWHERE.items():
        config.plugins["autorefs"].register_url(name, url)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces the marker of a page."""
    for marker, text in {"<!-- commands -->": commands, "<!-- settings -->": settings}.items():
        if marker in markdown:
            markdown = markdown.replace(marker, text())
    return markdown


def commands() -> str:
    """A section for each command, and for each command of a group, with its help."""
    sections = []
    for name in sorted([*COMMANDS, *GROUPS]):
        names = name.split()
        title = f"{'#' * (len(names) + 1)} kat {name}"
        sections.append(f"{title}\n\n```text\n{help_of(*names)}```\n")
    return "\n".join(sections)


def help_of(*names: str) -> str:
    """What ``kat NAMES --help`` prints."""
    printed = io.StringIO()
    os.environ["COLUMNS"] = WIDTH
    with redirect_stdout(printed), suppress(SystemExit):
        kat_command.main([*names, "--help"])
    return printed.getvalue()


def settings() -> str:
    """A table of the settings of a run, and one for each section of them."""
    schema, defaults = adapter(TrainConfig).json_schema(), asdict(TrainConfig())
    kinds = get_type_hints(TrainConfig)
    nested = [name for name, entry in schema["properties"].items() if "$ref" in entry]
    tables = ["\n".join(_table(TrainConfig, schema, defaults))]
    for name in nested:
        inner = schema["$defs"][kinds[name].__name__]
        rows = _table(kinds[name], inner, defaults[name], f"{name}.")
        summary = markdown_of((getdoc(kinds[name]) or "").partition("\n")[0])
        tables.append("\n".join([f"## {name}", "", summary, "", *rows]))
    return "\n\n".join(tables) + "\n"


def _table(
    kind: type, schema: Mapping[str, Any], defaults: Mapping[str, Any], before: str = ""
) -> Iterator[str]:
    yield "| setting | values | default | meaning |\n|---|---|---|---|"
    meanings = descriptions(kind)
    for name, entry in schema["properties"].items():
        if "$ref" not in entry:
            default = defaults[name]
            default = default if isinstance(default, str) else json.dumps(default)
            meaning = markdown_of(meanings[name])
            yield f"| `{before}{name}` | {values_of(entry)} | `{default}` | {meaning} |"


def descriptions(kind: type) -> dict[str, str]:
    """What the docstring of a dataclass says about each of its fields."""
    parsed = griffe.Docstring(getdoc(kind) or "").parse("google", warnings=False)
    (section,) = (each for each in parsed if each.kind is griffe.DocstringSectionKind.parameters)
    return {each.name: each.description for each in section.value}


def values_of(schema: Mapping[str, Any]) -> str:
    """The values of a setting in words, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(map(values_of, schema["anyOf"]))
    if choices := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return ", ".join(f"`{choice}`" for choice in choices)
    if schema["type"] == "array":
        pair = schema.get("prefixItems")
        items = values_of(pair[0] if pair else schema["items"]).replace("number", "numbers")
        return f"{'two' if pair else 'list of'} {items}"
    bounds = [f"{sign} {schema[name]:,}" for name, sign in BOUNDS.items() if name in schema]
    return " ".join([WORDS.get(schema["type"], schema["type"]), ", ".join(bounds)]).strip()


def markdown_of(text: str) -> str:
    """A docstring's text on one line, with links to the pages of docs/ that it names."""
    parts = CODE.split(" ".join(text.split()))
    parts[::2] = [re.sub(r"([*_|\[])", r"\\\1", part) for part in parts[::2]]
    return re.sub(r"docs/([\w-]+)\.md", r"[\1](../\1.md)", "".join(parts))
