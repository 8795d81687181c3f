"""``kat completion``: a script that lets the shell complete commands, options and values.

The script is made from the parsers of all commands, which takes some seconds, and needs no Python
afterwards. Make it again after an update of kat.

examples:
  kat completion bash > ~/.local/share/bash-completion/completions/kat
  kat completion zsh > ~/.zfunc/_kat      and in ~/.zshrc before compinit: fpath+=~/.zfunc
  kat completion fish > ~/.config/fish/completions/kat.fish
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import shtab
from jsonargparse import ArgumentParser

import kat_command
from kat.cli.options.parser import Parser

_SHELLS = [*shtab.SUPPORTED_SHELLS]


def main(arguments: list[str]) -> None:
    """Prints the script."""
    shell = make_parser().parse_args(arguments).shell
    parser = ArgumentParser(prog="kat")
    _add_commands(parser, [])
    sys.stdout.write(shtab.complete(parser, shell))


def make_parser() -> Parser:
    """The parser of ``kat completion``."""
    parser = Parser(__doc__, "SHELL")
    parser.add("shell", choices=_SHELLS, metavar="SHELL", help=", ".join(_SHELLS))
    return parser


def _add_commands(parser: ArgumentParser, group: list[str]) -> None:
    """Adds the parsers of the commands of a group as subcommands."""
    folder = Path(__file__).parent.joinpath(*group)
    subcommands = parser.add_subcommands(required=False)
    for name, summary in kat_command.find_commands(folder).items():
        words = [*group, name]
        if (folder / name).is_dir():
            inner = ArgumentParser()
            subcommands.add_subcommand(name, inner, help=summary)
            _add_commands(inner, words)
        else:
            module = importlib.import_module(".".join(["kat.cli", *words]))
            subcommands.add_subcommand(name, module.make_parser(), help=summary)
