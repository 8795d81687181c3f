"""The table of scripts/version_matrix.py."""

from __future__ import annotations

HEAD = "python,resolution,torch,passed\n"


def test_a_row_replaces_its_own_and_leaves_the_others(script, tmp_path):
    path = tmp_path / "table.csv"
    for row in ("3.11,highest,2.14,1", "3.14,highest,2.14,2", "3.11,highest,2.15,3"):
        script("version_matrix").replace(
            path, dict(zip(HEAD.strip().split(","), row.split(","), strict=True))
        )
    assert path.read_text() == f"{HEAD}3.11,highest,2.15,3\n3.14,highest,2.14,2\n"
    assert list(tmp_path.iterdir()) == [path]
