"""The report of a conversion."""

from __future__ import annotations

import pytest

from kat.models import Conversion, Movement


@pytest.mark.parametrize(("largest", "suggested"), [(2e-2, True), (9e-3, False)])
def test_a_closer_fit_is_suggested_if_the_outputs_moved_far(largest, suggested):
    report = Conversion("vit", [], {}, [], [], moved=Movement(max=largest, rms=5e-3, images=1))
    assert any("degree: [9, 8]" in text for _, text in report.rows()) == suggested
