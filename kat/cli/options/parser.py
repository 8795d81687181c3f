"""The parser of a command, and the options that mean the same in all commands."""

from __future__ import annotations

import json
import re
import sys
from argparse import Action, ArgumentDefaultsHelpFormatter, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from inspect import cleandoc
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from jsonargparse import ActionYesNo, ArgumentParser
from pydantic import ValidationError
from rich.console import Console
from rich.progress import track

from kat import documents
from kat.data import DataConfig
from kat.errors import InputError, unknown
from kat.files import PICTURES, check_folder, check_new_folder, check_target
from kat.settings import Count, adapter, describe

T = TypeVar("T")

_NOT_FOR_EVALUATION = {
    "image_size", "channels", "interpolation", "crop_pct", "mean", "std", "train_split",
}  # fmt: skip
"""The settings of data that evaluation takes from the model."""
MODEL = (
    "a run directory, a model folder, a .ckpt file, digits (a model that comes with kat), or a file"
    " of weights of an official KAT"
)
"""The forms of a trained model on the command line."""

_COMMON: dict[str, dict[str, Any]] = {
    "run": {"type": Path, "metavar": "RUN", "help": MODEL},
    "--data": {"metavar": "NAME", "help": "dataset of the images (default: the run's own)"},
    "--device": {
        "default": "auto",
        "help": "auto (a GPU if there is one), cpu, cuda, cuda:1, mps",
    },
    "--exif": {
        "choices": ("upright", "ignore"),
        "default": "upright",
        "help": "as data.exif in training",
    },
    "--image-size": {
        "type": Count,
        "metavar": "N",
        "help": "side of the square that the model sees, in pixels; of a segmentation model the"
        " shorter side of the image, of a detector the longer one (default: the model's)",
    },
    "--progress": {
        "action": ActionYesNo(no_prefix="no-"),
        "default": True,
        "help": "show a progress bar in a terminal",
    },
    "--trust": {
        "action": "store_true",
        "help": "open .pt2 files, which are programs: one from somebody you do not trust can do"
        " anything that you can. No other file of a model runs code",
    },
}
"""The options that mean the same in all commands, for ``add_argument``."""


class Formatter(RawDescriptionHelpFormatter, ArgumentDefaultsHelpFormatter):
    """Keep the lines of the description, and show defaults."""


class Parser(ArgumentParser):
    """The parser of a command.

    Hyphens and underscores mean the same in the names of options. Errors are raised as
    :class:`InputError`. ``--quiet`` and ``--debug`` are options of every command.

    Args:
        doc: the docstring of the command's module or function: "``kat NAME``: summary", then the
            help.
        subject: what the command acts on, for its usage, e.g. ``"RUN..."``.
        options: passed on to jsonargparse's parser.
    """

    def __init__(self, doc: str | None = "", subject: str = "", **options: Any) -> None:
        self.spellings: dict[str, str] = {}
        self.types: dict[str, Any] = {}
        self.switches: set[str] = set()
        self.outputs: dict[str, Callable[[Path], None]] = {}
        name, _, about = cleandoc(doc or "").removeprefix("``").partition("``: ")
        if about:
            options["prog"] = name
            options["usage"] = f"{name} {subject} [OPTIONS]".replace("  ", " ")
            options["description"] = about[0].upper() + about[1:]
        super().__init__(allow_abbrev=False, formatter_class=Formatter, **options)
        if about:
            self.add("--quiet", action="store_true", help="print only the result")
            self.add("--debug", action="store_true", help="show the traceback of an error")

    def add(self, name: str, **options: Any) -> Action:
        """Add an argument, whose name may have hyphens; see ``add_argument``."""
        action = self.add_argument(name, **options)
        self.spellings[name.replace("-", "_")] = name
        self.types[action.dest] = options.get("type")
        return action

    def add_file(self, name: str, what: str, endings: Sequence[str] = (), **more: Any) -> None:
        """Add an option for a file to write; before the work begins, the file is checked."""
        action = self.add(name, type=Path, metavar="FILE", help=what, **more)
        self.outputs[action.dest] = partial(check_target, endings=endings)

    def add_folder(self, name: str, what: str, *, new: bool = False, **more: Any) -> None:
        """Add an option for a folder to write to; before the work begins, the folder is checked.

        Args:
            name: of the option.
            what: its help.
            new: the folder must be missing or empty.
            more: passed on to :meth:`add`.
        """
        action = self.add(name, type=Path, metavar="FOLDER", help=what, **more)
        self.outputs[action.dest] = check_new_folder if new else check_folder

    def add_json(self, what: str) -> None:
        """Add ``--json FILE``."""
        self.add_file("--json", f"also write {what} to this .json file")

    def add_csv(self, what: str) -> None:
        """Add ``--csv FILE``."""
        self.add_file("--csv", f"also write {what} to this .csv file")

    def add_picture(self, default: str, more: Sequence[str] = ()) -> None:
        """Add ``--out FILE`` for a figure."""
        endings = (*PICTURES, *more)
        self.add_file(
            "--out",
            f"the figure: {', '.join(endings[:-1])} or {endings[-1]}",
            endings,
            default=Path(default),
        )

    def add_common(self, *names: str) -> None:
        """Add options that mean the same in all commands: ``--device``, ``--trust`` and others."""
        for name in names:
            self.add(name, **_COMMON[name])
            if name == "--progress":
                self.spellings["__no_progress"] = "--no-progress"

    def add_settings(
        self, settings: type, section: str | None = None, skip: Collection[str] = ()
    ) -> None:
        """Add an option for each field of a dataclass, and of the dataclasses nested in it.

        A setting that is true or false needs no value: ``--flip`` is ``--flip true``.
        """
        self.add_class_arguments(settings, section, skip=set(skip))
        prefix = f"{section}." if section else ""
        for name, default, kind in settings_of(settings, prefix):
            if name.removeprefix(prefix) in skip:
                continue
            self.spellings[f"__{name}"] = f"--{name}"
            self.types[name] = kind
            if isinstance(default, bool):
                self.switches.add(f"--{name}")

    def add_data(self) -> None:
        """Add ``--data NAME`` and the settings ``--data.SETTING VALUE``; None unless given."""
        self.add_settings(DataConfig, "data", _NOT_FOR_EVALUATION)
        names = {field.name for field in fields(DataConfig)} - _NOT_FOR_EVALUATION
        self.set_defaults({f"data.{name}": None for name in names})
        self.spellings["__data"] = "--data.name"

    def parse_args(
        self,
        args: Any = None,
        namespace: Any = None,
        env: bool | None = None,
        defaults: bool = True,
        **options: Any,
    ) -> Any:
        """Parse arguments; the files to write are checked."""
        spelled = list(self._spelled(args or []))
        found = super().parse_args(spelled, namespace, env, defaults, **options)
        if found.get("quiet") and "progress" in found:
            found.progress = False
        for name, check in self.outputs.items():
            if found.get(name) is not None:
                check(found[name])
        return found

    def _spelled(self, arguments: Sequence[str]) -> Iterator[str]:
        """Yield the arguments with options as they were added, and the values of switches."""
        for argument, follows in zip_longest(arguments, arguments[1:]):
            name, equals, value = argument.partition("=")
            name = name.replace("-", "_")
            name = self.spellings.get(name, f"--{name[2:]}")
            positive = name.replace("--no_", "--")
            if not argument.startswith("--"):
                yield argument
            elif positive in self.switches and not equals and follows not in _SWITCH_VALUES:
                yield f"{positive}={str(positive == name).lower()}"
            else:
                yield name + equals + value

    def format_help(self, formatter: Any = None) -> str:
        """Return the text of ``--help``, with hyphens in names, without defaults such as None."""
        text: str = super().format_help()
        text = re.sub(r"\s+\(default:\s+(None|False|\[\]|\{\})\)", "", text)
        text = re.sub(r"^  --\w+ CONFIG .*\n", "", text, flags=re.MULTILINE)
        return re.sub(r"--[a-z][a-z0-9_]+(?![\w.])", lambda name: name[0].replace("_", "-"), text)

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raise the message as :class:`InputError`: the name, the value, and what is valid."""
        text = " ".join(message.split())
        if text.lower().startswith("unrecognized arguments: --"):
            name = text.split()[2].partition("=")[0]
            if name in _OF_FOLDS:
                raise InputError(
                    f"there is no {name}: kat has no k-fold cross-validation; write a table"
                    " (csv:FILE) with splits for each fold"
                )
            raise unknown("option", name, self.spellings.values())
        key = text.removeprefix('Parser key "').partition('"')[0]
        if key in self.types:
            raise self._invalid(key, message.rpartition("value:")[2].strip())
        raise InputError(f"{describe([text])}; '{self.prog} --help' explains")

    def _invalid(self, key: str, value: str) -> InputError:
        """Return the error for a value that was refused, if possible in pydantic's words."""
        name = self.spellings.get(f"__{key}", key)
        try:
            content = json.dumps(yaml.safe_load(value), default=str)
            adapter(self.types[key]).validate_json(content, strict=True)
        except yaml.YAMLError:
            return InputError(f"{name} is not valid YAML: {value}")
        except ValidationError as error:
            wanted = describe(problem["msg"] for problem in error.errors())
            return InputError(f"{name} must be {wanted}, got {value or 'nothing'}")
        return InputError(f"{name} is not valid: {value}")


_SWITCH_VALUES = ("true", "false", "auto")
_OF_FOLDS = ("--folds", "--k_folds", "--kfold")
"""Options that other programs have."""


def refuse_options(parser: Parser, options: Namespace, names: Iterable[str], reason: str) -> None:
    """Check that options without an effect have their default values.

    Args:
        parser: the parser of the options.
        options: parsed.
        names: the names of the options without effect.
        reason: why they have none: completes "--name has no effect ...".

    Raises:
        InputError: one of them was given.
    """
    for name in names:
        if getattr(options, name) != parser.get_default(name):
            raise InputError(f"--{name.replace('_', '-')} has no effect {reason}: leave it out")


def settings_of(settings: type, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield dotted names, defaults and types of the fields of a dataclass, and of nested ones."""
    types = get_type_hints(settings, include_extras=True)
    for field in fields(settings):
        yield prefix + field.name, field.default, types[field.name]
        if is_dataclass(field.default_factory):
            yield from settings_of(field.default_factory, f"{prefix}{field.name}.")


def write_json(options: Namespace, content: object) -> None:
    """Write the file of ``--json``, if it was given."""
    if options.json:
        documents.write_json(options.json, content)


def tracked(items: Sequence[T], what: str, options: Namespace) -> Iterable[T]:
    """Return the items, with a progress bar in a terminal if ``options.progress``."""
    console = Console(file=sys.stderr)
    if not options.progress or not console.is_terminal:
        return items  # a bar that is not shown would still print an empty line
    return track(items, what, console=console, transient=True)
