"""Every command in the documentation and in the help is one that the command line accepts."""

from __future__ import annotations

import functools
import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kat.cli.commands import train
from kat.cli.main import COMMANDS, GROUPS, USAGE
from kat.cli.options import parser as parsing
from kat.cli.options.parser import settings_of
from kat.errors import InputError
from kat.training import TrainConfig
from kat.training.settings import recipes
from tests.cli.commands import ALL_COMMANDS, run

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def commands_in(text: str) -> list[str]:
    """The lines that call ``kat``, continued lines joined, without remarks."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = [re.sub(r"^(srun|time) ", "", line.strip()) for line in joined.splitlines()]
    return [re.split(r"   +|  #| > ", line)[0] for line in lines if line.startswith("kat ")]


def commands_of_page(page: Path) -> list[str]:
    """The commands in the code blocks of a page."""
    blocks = re.findall(r"^```(?:(?:sh|console)?\n(.*?)|.*?)^```", page.read_text(), re.M | re.S)
    return [line for block in blocks for line in commands_in(block)]


@pytest.fixture
def parse(monkeypatch, tmp_path):
    """Parses a line as its command does, whatever files there are."""
    monkeypatch.chdir(tmp_path)
    for check in ("check_target", "check_folder", "check_new_folder"):
        monkeypatch.setattr(parsing, check, lambda *_, **__: None)
    recipe_path = recipes.recipe_path

    def find(name):
        if name.endswith(".yaml"):
            (tmp_path / "recipe.yaml").write_text("{}")
            return str(tmp_path / "recipe.yaml")
        return recipe_path(name)

    monkeypatch.setattr(recipes, "recipe_path", find)
    parser_of = functools.cache(lambda module, make: getattr(module, make)())

    def run(line):
        _, *words = shlex.split(line.replace("SEED", "0"), comments=True)
        module = importlib.import_module(f"kat.cli.commands.{words[0]}")
        depth = 2 if words[0] in GROUPS else 1
        make = f"{words[1]}_parser" if depth == 2 else "make_parser"
        words = [word for word in words[depth:] if word != "..."]
        return parser_of(module, make).parse_args(words)

    return run


def test_the_commands_of_pages_and_recipes_are_accepted(parse):
    lines = [line for page in PAGES for line in commands_of_page(page)]
    assert len(lines) > 80
    for path in (ROOT / "kat" / "recipes").rglob("*.yaml"):
        remarks = re.findall(r"^# ?(.*)", path.read_text(), re.M)
        lines += commands_in("\n".join(remarks))
    for line in lines:
        parse(line)


def test_the_usage_lists_all_commands_with_their_summaries():
    for usage, group in ((USAGE, ""), *((usage, f"{group} ") for group, usage in GROUPS.items())):
        rows = re.findall(r"^  (\w+) +(.*)$", usage.split("commands:\n")[1].split("\n\n")[0], re.M)
        listed = {group + name: summary for name, summary in rows}
        inner = {name for name in COMMANDS if name.startswith(group)}
        assert listed.keys() == (inner if group else {name.split()[0] for name in COMMANDS})
        for name in listed.keys() & inner:
            module, _, function = name.partition(" ")
            command = importlib.import_module(f"kat.cli.commands.{module}")
            doc = (getattr(command, function) if function else command).__doc__
            assert doc.startswith(f"``kat {name}``: {listed[name]}.\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_the_subject_and_has_examples_that_are_accepted(name, capsys, parse):
    with pytest.raises(SystemExit) as stop:
        run(*name.split(), "--help")
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: kat {name} ")
    positional = re.findall(r"^  (\S+)", printed.partition("positional arguments:\n")[2], re.M)
    if "positional arguments:" in printed:
        usage = printed.splitlines()[0]
        assert positional[0].strip("{}") in usage
    examples = commands_in(printed.partition("examples:\n")[2])
    assert any(line.startswith(f"kat {name} ") for line in examples)
    for line in examples:
        parse(line)
    problem = "arguments are required"
    try:
        parse(f"kat {name}")
    except InputError as error:
        problem = str(error)
    assert "arguments are required" in problem


def test_the_examples_of_groups_and_of_kat_are_accepted(capsys, parse):
    for words in ([], *([group] for group in GROUPS)):
        assert run(*words, "--help") == 0
        examples = commands_in(capsys.readouterr().out.partition("examples:\n")[2])
        assert examples
        for line in examples:
            parse(line)


def test_the_most_important_settings_are_shown_with_examples_that_are_accepted(parse):
    rows = re.findall(r"^  ([\w.]+)  .*?  (--.*)$", train.__doc__, re.M)
    assert len(rows) == 10
    for name, example in rows:
        assert name in {setting for setting, *_ in settings_of(TrainConfig)}
        parse(f"kat train {example}")


@pytest.mark.parametrize(("option", "refused"), [("--help", False), ("--wrong-option", True)])
def test_no_command_imports_torch_for_its_help_or_to_refuse_what_is_given(option, refused):
    """torch takes seconds to import."""
    lines = [f"{name} {option}".split() for name in ["", *COMMANDS]]
    lines += [["eval"], ["fit", "gelu", "--method", "x"], ["plot", "cost", "--x", "x"]] * refused
    command = [sys.executable, "-c", ALL_COMMANDS, json.dumps(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert len(found) == len(lines) > 20
    for line, (code, _, err, heavy) in found.items():
        assert (code, err.count("\n"), heavy) == (2 * refused, refused, []), line
