"""``kat completion``: print a script that lets the shell complete commands, options and values.

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
    """Print the script."""
    shell = make_parser().parse_args(arguments).shell
    parser = ArgumentParser(prog="kat")
    folder = Path(__file__).parent
    commands = parser.add_subcommands(required=False)
    for name, summary in kat_command.find_commands(folder).items():
        module = importlib.import_module(f"kat.cli.{name}")
        group = kat_command.find_commands(folder / f"{name}.py")
        if not group:
            commands.add_subcommand(name, module.make_parser(), help=summary)
            continue
        inner = ArgumentParser()
        commands.add_subcommand(name, inner, help=summary)
        own = inner.add_subcommands(required=False)
        for each, what in group.items():
            own.add_subcommand(each, getattr(module, f"{each}_parser")(), help=what)
    sys.stdout.write(shtab.complete(parser, shell))


def make_parser() -> Parser:
    """Return the parser of ``kat completion``."""
    parser = Parser(__doc__, "SHELL")
    parser.add("shell", choices=_SHELLS, metavar="SHELL", help=", ".join(_SHELLS))
    return parser
