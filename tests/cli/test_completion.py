"""The script of ``kat completion``, in bash."""

from __future__ import annotations

import subprocess

import pytest

from tests.cli.commands import run

CASES = {
    "kat tr": {"train"},
    "kat plot cu": {"curves"},
    "kat train --data.ba": {"--data.batch_size", "--data.bad_images", "--data.bad_annotations"},
    "kat fit gelu --method mini": {"minimax"},
    "kat eval x --precision bf": {"bf16-mixed"},
    "kat plot curves x --lab": {"--labels"},
}
"""The completions of the last word."""

BASH = """source {script}
for line in "$@"; do
    COMP_WORDS=($line) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) COMPREPLY=()
    _shtab_kat
    echo "${{COMPREPLY[*]}}"
done"""


@pytest.mark.slow
def test_the_shell_completes_commands_options_and_values(capsys, tmp_path):
    assert run("completion", "bash") == 0
    script = tmp_path / "kat"
    script.write_text(capsys.readouterr().out)
    command = ["bash", "-c", BASH.format(script=script), "bash", *CASES]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.stderr == ""
    completed = [set(line.split()) for line in ended.stdout.splitlines()]
    assert completed == list(CASES.values())
