"""The scripts of ``kat completion``, in the shells that are installed."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.cli.commands import refused, run

CASES = {
    "kat tr": {"train"},
    "kat plot cu": {"curves"},
    "kat train --data.ba": {"--data.batch_size", "--data.bad_images", "--data.bad_annotations"},
    "kat train --config dig": {"digits"},
    "kat eval x --precision 16": {"16-mixed"},
    "kat plot curves x --lab": {"--labels"},
    "kat eval --precision 32-true x --crop": {"--crop-pct"},
}
"""What completes the last word."""

BASH = """source {script}
for line in "$@"; do
    COMP_WORDS=($line) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) COMPREPLY=()
    _kat
    echo "${{COMPREPLY[*]}}"
done"""
FISH = """source {script}
for line in $argv; echo (complete -C $line); end"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """Writes the script of a shell."""
    folder = tmp_path_factory.mktemp("completion")

    def write(shell, capsys):
        path = folder / shell
        if not path.exists():
            assert run("completion", shell) == 0
            path.write_text(capsys.readouterr().out)
        return path

    return write


@pytest.mark.slow
@pytest.mark.parametrize(("shell", "body"), [("bash", BASH), ("fish", FISH)])
def test_the_shell_completes_commands_options_and_values(shell, body, script, capsys):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    text = body.format(script=script(shell, capsys))
    given = (text, *CASES) if shell == "fish" else (text, "bash", *CASES)
    ended = subprocess.run([shell, "-c", *given], capture_output=True, text=True)
    assert ended.stderr == ""
    completed = [set(line.split()) for line in ended.stdout.splitlines()]
    assert completed == list(CASES.values())


@pytest.mark.slow
def test_zsh_takes_the_script_of_bash(script, capsys):
    text = script("zsh", capsys).read_text()
    assert "bashcompinit" in text
    assert text.endswith(script("bash", capsys).read_text())


def test_an_unknown_shell_is_named(capsys):
    assert "unknown SHELL 'tcsh'; did you mean 'zsh'?" in refused(capsys, "completion", "tcsh")
