"""The figures of docs/results.md are those of the committed rows; one that is changed is named."""

import pytest

from scripts import check_results


@pytest.mark.slow
def test_the_committed_page_has_the_figures_of_the_rows_and_another_is_named(tmp_path):
    page = check_results.ROOT / "docs/results.md"
    assert check_results.recompute(page)[0] == []
    changed = tmp_path / "results.md"
    changed.write_text(page.read_text().replace("26 % less", "27 % less in 3.5 s,", 1))
    (figure, added), _ = check_results.recompute(changed)
    assert "the page says 27, the rows say 26" in figure
    assert "no fragment covers 3.5: " in added
