"""``kat completion``: a script that lets the shell complete commands, options and values.

The script is made from the help of all commands, which takes some seconds, and needs no Python
afterwards. Make it again after an update of kat.

examples:
  kat completion bash > ~/.local/share/bash-completion/completions/kat
  kat completion zsh > ~/.kat-completion.zsh      and in ~/.zshrc: source ~/.kat-completion.zsh
  kat completion fish > ~/.config/fish/completions/kat.fish
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import kat_command
from kat.cli.options.parser import Parser
from kat.cli.options.recipes import recipe_names
from kat.cli.options.training_settings import TrainingParser

SHELLS = ("bash", "zsh", "fish")

Options = dict[str, list[str]]
"""The options of a command, each with the values to choose from; none if they are free."""

_BASH = """\
_kat() {{
    local command= words= index
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    for ((index = 1; index < COMP_CWORD; index++)); do
        case "$command ${{COMP_WORDS[index]}}" in
{groups}
            " "[a-z]*) command=${{COMP_WORDS[index]}}; break ;;
            *) break ;;
        esac
    done
    case "$command $before" in
{values}
    esac
    if [[ -z $words && ($word == -* || -z $command || " {names} " == *" $command "*) ]]; then
        case "$command" in
{options}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _kat kat
"""
_ZSH = """\
autoload -U compinit bashcompinit
(( $+functions[compdef] )) || compinit
bashcompinit
"""
_FISH = """\
function __kat_at  # whether the words before the cursor begin with kat and these
    set -l words (commandline -opc)
    set -e words[1]
    string match -q -- "$argv" "$words"; or string match -q -- "$argv *" "$words"
end
function __kat_is  # whether they are kat and these
    test (count (commandline -opc)) = (math (count $argv) + 1); and __kat_at $argv
end
"""


def main(arguments: list[str]) -> None:
    """Prints the script."""
    options = make_parser().parse_args(arguments)
    commands = dict(_commands())
    if options.shell == "fish":
        sys.stdout.write(_fish(commands))
    else:
        sys.stdout.write((_ZSH if options.shell == "zsh" else "") + _bash(commands))


def make_parser() -> Parser:
    """The parser of ``kat completion``."""
    parser = Parser(__doc__, "SHELL")
    parser.add("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    return parser


def _commands() -> Iterator[tuple[str, Options]]:
    """The commands with their options; the name of one in a group has two words."""
    folder = Path(__file__).parent
    for name in kat_command.find_commands(folder):
        inner = kat_command.find_commands(folder / name) if (folder / name).is_dir() else [""]
        for command in inner:
            words = f"{name} {command}".split()
            parser = importlib.import_module(".".join(["kat.cli", *words])).make_parser()
            yield " ".join(words), _options(parser)


def _options(parser: Parser) -> Options:
    """The options in the help of a command."""
    text = parser.format_all_help() if isinstance(parser, TrainingParser) else parser.format_help()
    found: Options = {}
    for line in re.findall(r"^  (?:-h, )?(--.*)", text, re.M):
        names = re.findall(r"--[a-z][\w.-]*", line)
        choices = re.search(r"\{(.*)\}", line)
        found |= dict.fromkeys(names, choices[1].split(",") if choices else [])
    if isinstance(parser, TrainingParser):
        found["--config"] = recipe_names()
    return found


def _groups(commands: dict[str, Options]) -> dict[str, list[str]]:
    """The commands of each group; "" is the group of all names that follow ``kat``."""
    found: dict[str, list[str]] = {"": []}
    for command in commands:
        name, _, inner = command.partition(" ")
        if name not in found[""]:
            found[""].append(name)
        if inner:
            found.setdefault(name, []).append(inner)
    return found


def _bash(commands: dict[str, Options]) -> str:
    groups = _groups(commands)
    inner = {name: words for name, words in groups.items() if name}
    cases = [
        f'            " {name}") command={name} ;;\n'
        f'            "{name} "[a-z]*) command="{name} ${{COMP_WORDS[index]}}"; break ;;'
        for name in inner
    ]
    values = [
        f'        "{command} {name}") words="{" ".join(choices)}" ;;'
        for command, options in commands.items()
        for name, choices in options.items()
        if choices
    ]
    words = groups | {command: list(options) for command, options in commands.items()}
    options = [f'            "{name}") words="{" ".join(each)}" ;;' for name, each in words.items()]
    return _BASH.format(
        groups="\n".join(cases),
        values="\n".join(values),
        options="\n".join(options),
        names=" ".join(inner),
    )


def _fish(commands: dict[str, Options]) -> str:
    lines = [
        f"complete -c kat -f -n '__kat_is {group}' -a '{' '.join(names)}'"
        for group, names in _groups(commands).items()
    ]
    for command, options in commands.items():
        for name, choices in options.items():
            values = f" -x -a '{' '.join(choices)}'" if choices else ""
            lines.append(f"complete -c kat -n '__kat_at {command}' -l {name[2:]}{values}")
    return _FISH + "\n".join(lines) + "\n"
