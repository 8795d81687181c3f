"""A tutorial's page has what the code printed, and of standard error what kat says."""

from __future__ import annotations

import logging

import pytest

from tests.docs.public import imported

pytestmark = pytest.mark.release

SCRIPT = """# %%
import sys, warnings
print("kept")
warnings.warn("kanify: the fit is off", stacklevel=2)
sys.stderr.write("kat: a line\\nanother library\\n");
# %%
warnings.warn("about torch")
"""


def test_standard_error_is_what_kat_says_and_the_time_is_logged(tmp_path, caplog):
    script = tmp_path / "lesson.py"
    script.write_text(SCRIPT)
    with caplog.at_level(logging.INFO, "mkdocs.hooks"):
        first, second = imported("notebooks", "scripts/site").executed(script).cells
    assert [(output.name, output.text) for output in first.outputs] == [
        ("stdout", "kept\n"),
        ("stderr", "kanify: the fit is off\nkat: a line\n"),
    ]
    assert second.outputs == []
    assert caplog.messages[0].startswith("lesson.py ran in ")
