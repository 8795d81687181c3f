"""The page of a monitored run."""

from __future__ import annotations

import math

import pytest

from kat.analysis import write_stability_report
from tests.analysis.stability_rows import monitored


@pytest.mark.slow
def test_the_page_stands_alone_and_shades_layers_that_break(tmp_path):
    path = tmp_path / "stability.html"
    rows = monitored(**{"10/1": {"gain": math.nan, "input_gradient": 0.0, "q_max": math.inf}})
    write_stability_report(rows, path, "the loss is nan & more")
    page = path.read_text()
    assert "The run was stopped: the loss is nan &amp; more" in page
    assert page.count('<tr class="bad">') == 1
    assert page.count("<svg") == 15
    assert "<script" not in page
    one_step = [row for row in rows if row["step"] == 0]
    write_stability_report(one_step, path)
