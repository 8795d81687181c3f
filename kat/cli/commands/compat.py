"""``kat compat``: check what of a project written for the published packages is served.

Reads the .py files of PROJECT, and runs none of them. Prints a line for each import and call of
kat_rational, katransformer, rational_kat, rational.torch and ikan.GroupKAN: how "import kat.compat"
serves it, or why not; and for each file that cannot be read. If Python would import a kat.py or
kat/__init__.py of the project in the place of this library, prints only its name and the lines that
import it: rename it first. Exit code: 0 if all is served, 1 if something is not served or not read,
2 if nothing can be checked or written.

examples:
  kat compat my_project
  kat compat my_project --replace        prints the changed imports as a diff, then writes them
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import NoReturn

from kat.errors import InputError
from kat.text import counted, say, say_all


class _Parser(ArgumentParser):
    """A parser that needs no extra."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; 'kat compat --help' explains")


def main(arguments: list[str]) -> int:
    """Print what is found, and write the replacements."""
    options = make_parser().parse_args(arguments)
    from kat.compat.check import check, replace  # imports torch

    found = check(options.project)
    problems = sum(each.is_problem for each in found)
    say_all(found)
    say(f"{counted(len(found), 'finding')}, {problems} not served or not read")
    if options.replace:
        replace(options.project, found, options.force)
    return int(problems > 0)


def make_parser() -> ArgumentParser:
    """Return the parser of ``kat compat``."""
    parser = _Parser(
        prog="kat compat",
        usage="kat compat PROJECT [OPTIONS]",
        description=__doc__.removeprefix("``kat compat``: "),
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("project", type=Path, metavar="PROJECT", help="the folder of the project")
    switches = {
        "--replace": "write imports of kat.compat",
        "--force": "write outside of a git repository too",
        "--quiet": "print only the result",
        "--debug": "show the traceback of an error",
    }
    for name, what in switches.items():
        parser.add_argument(name, action="store_true", help=what)
    return parser
