"""Every command in the documentation and in the help is one that the command line accepts."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

import kat_command
from kat.cli import train
from kat.cli.options import parser as parsing
from kat.cli.options import training_settings
from kat.cli.options.parser import settings_of
from kat.errors import InputError
from kat.training import TrainConfig
from tests.cli.commands import refused

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CLI = ROOT / "kat" / "cli"
GROUPS = [name for name in kat_command.find_commands(CLI) if (CLI / name).is_dir()]
COMMANDS = {
    f"{group} {name}".strip(): summary
    for group in ("", *GROUPS)
    for name, summary in kat_command.find_commands(CLI / group).items()
    if not (CLI / group / name).is_dir()
}
"""The summary of each command, those of groups by two words."""


def commands_in(text: str) -> list[str]:
    """The lines that call ``kat``, continued lines joined, without remarks."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = [re.sub(r"^(srun|time) ", "", line.strip()) for line in joined.splitlines()]
    return [re.split(r"   +|  #| > ", line)[0] for line in lines if line.startswith("kat ")]


def commands_of_page(page: Path) -> list[str]:
    """The commands in the code blocks of a page."""
    blocks = re.findall(r"^```(?:sh|console)?\n(.*?)^```", page.read_text(), re.M | re.S)
    return [line for block in blocks for line in commands_in(block)]


@pytest.fixture
def parse(monkeypatch, tmp_path):
    """Parses a line as its command does, whatever files there are."""
    monkeypatch.chdir(tmp_path)
    for check in ("check_target", "check_folder", "check_new_folder"):
        monkeypatch.setattr(parsing, check, lambda *_, **__: None)
    recipe_path = training_settings.recipe_path

    def find(name):
        if name.endswith(".yaml"):
            (tmp_path / "recipe.yaml").write_text("{}")
            return str(tmp_path / "recipe.yaml")
        return recipe_path(name)

    monkeypatch.setattr(training_settings, "recipe_path", find)

    def run(line):
        _, *words = shlex.split(line.replace("SEED", "0"), comments=True)
        depth = 2 if (CLI / words[0]).is_dir() else 1
        module = importlib.import_module(".".join(["kat.cli", *words[:depth]]))
        return module.make_parser().parse_args([w for w in words[depth:] if w != "..."])

    return run


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_are_accepted(page, parse):
    for line in commands_of_page(page):
        parse(line)


def test_the_pages_have_commands():
    assert sum(len(commands_of_page(page)) for page in PAGES) > 80


def test_the_commands_in_recipes_are_accepted(parse):
    for path in (ROOT / "recipes").rglob("*.yaml"):
        remarks = re.findall(r"^# ?(.*)", path.read_text(), re.M)
        for line in commands_in("\n".join(remarks)):
            parse(line)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_the_subject_and_has_examples_that_are_accepted(name, capsys, parse):
    with pytest.raises(SystemExit) as stop:
        kat_command.main([*name.split(), "--help"])
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


@pytest.mark.parametrize("name", COMMANDS)
def test_a_bare_command_has_defaults_or_names_what_it_needs(name, parse):
    try:
        parse(f"kat {name}")
        problem = None
    except InputError as error:
        problem = str(error)
    assert problem is None or "arguments are required" in problem


@pytest.mark.parametrize("name", COMMANDS)
def test_an_odd_option_is_one_line(name, capsys):
    assert "unknown option '--odd'" in refused(capsys, *name.split(), "--odd=1")


def test_the_examples_of_groups_and_of_kat_are_accepted(capsys, parse):
    for words in ([], *([group] for group in GROUPS)):
        assert kat_command.main([*words, "--help"]) == 0
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
