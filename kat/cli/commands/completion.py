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

import shtab
from jsonargparse import ArgumentParser

from kat.cli.main import COMMANDS, GROUPS
from kat.cli.options.parser import Parser

_SHELLS = [*shtab.SUPPORTED_SHELLS]


def main(arguments: list[str]) -> None:
    """Print the script."""
    shell = make_parser().parse_args(arguments).shell
    parser = ArgumentParser(prog="kat")
    commands = {"": parser.add_subcommands(required=False)}
    for group in GROUPS:
        inner = ArgumentParser()
        commands[""].add_subcommand(group, inner, help=f"see 'kat {group} --help'")
        commands[group] = inner.add_subcommands(required=False)
    for name in COMMANDS:
        first, _, second = name.partition(" ")
        module = importlib.import_module(f"kat.cli.commands.{first}")
        own = getattr(module, f"{second}_parser" if second else "make_parser")()
        summary = own.description.partition("\n")[0]
        commands[first if second else ""].add_subcommand(second or first, own, help=summary)
    sys.stdout.write(shtab.complete(parser, shell))


def make_parser() -> Parser:
    """Return the parser of ``kat completion``."""
    parser = Parser(__doc__, "SHELL")
    parser.add("shell", choices=_SHELLS, metavar="SHELL", help=", ".join(_SHELLS))
    return parser
