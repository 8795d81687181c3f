"""``kat data`` as a user calls it."""

from __future__ import annotations

import json

from tests.cli.commands import refused, run
from tests.data.dense.coco_files import instances, write_coco
from tests.images import write_folder

QUIET = ("--no-progress",)


def test_what_is_made_is_found_right(items, capsys):
    for kind in ("coco", "ade20k"):
        assert run("data", "check", f"{kind}:{items}", *QUIET) == 0
        printed = capsys.readouterr().out
        assert printed.startswith("train: 8 images")
        assert printed.endswith("nothing is wrong\n")


def test_each_kind_of_problem_is_one_line(tmp_path, capsys):
    content = instances()
    content["annotations"][1]["bbox"][2] = 0
    content["annotations"][2]["bbox"][3] = -1
    content["annotations"][0]["image_id"] = 5
    write_coco(tmp_path, content)
    (tmp_path / "val2017" / "b.png").unlink()
    name = f"coco:{tmp_path}"
    assert run("data", "check", name, *QUIET) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("train: 3 images")
    assert lines[3].split()[:2] == ["fatal", "boxes"]
    assert "area: 2, first" in lines[3]
    missing = f"missing images: 1, first {tmp_path / 'val2017' / 'b.png'}"
    assert f"  skipped  {missing}" in "\n".join(lines)
    assert "4 fatal" in lines[-1]
    report = tmp_path / "problems.json"
    assert run("data", "check", name, "--skip", "--json", report, *QUIET) == 0
    printed = capsys.readouterr().out
    assert "zero area: 2" in printed
    train, _ = json.loads(report.read_text())["splits"]
    boxes = next(one for one in train["problems"] if one["kind"] == "boxes of zero area")
    assert (boxes["severity"], boxes["count"], len(boxes["cases"])) == ("skipped", 2, 2)


def test_data_of_classification(tmp_path, capsys):
    write_folder(tmp_path, classes=2, train=2, val=1)
    assert run("data", "check", f"folder:{tmp_path}", *QUIET) == 0
    (tmp_path / "val" / "n01" / "0.jpg").write_bytes(b"torn")
    assert run("data", "check", f"folder:{tmp_path}", *QUIET) == 0
    assert "unreadable images: 1" in capsys.readouterr().out
    (tmp_path / "train" / "n00").rename(tmp_path / "train" / "n07")
    assert run("data", "check", f"folder:{tmp_path}", *QUIET) == 1
    assert "1 fatal" in capsys.readouterr().out  # --skip does not help


def test_bad_input_is_one_line(tmp_path, capsys):
    nowhere = refused(capsys, "data", "check", f"coco:{tmp_path / 'nowhere'}", *QUIET)
    assert "does not exist" in nowhere
    assert "unknown dataset 'cocoa'" in refused(capsys, "data", "check", "cocoa", *QUIET)
