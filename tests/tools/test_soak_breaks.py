"""The breaks that the campaign must catch: their texts are still there."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from soak.breaks import BREAKS, ROOT  # noqa: E402
from soak.page import FAMILIES, figures  # noqa: E402


@pytest.mark.parametrize("one", BREAKS, ids=lambda one: one.name)
def test_a_break_can_be_made(one, tmp_path):
    """Its text stands once in its file, and what it becomes is Python."""
    path = tmp_path / one.file
    path.parent.mkdir(parents=True)
    shutil.copyfile(ROOT / one.file, path)
    one.apply(tmp_path)
    assert path.read_text() != (ROOT / one.file).read_text()
    compile(path.read_text(), one.file, "exec")
    assert one.family in FAMILIES and one.kinds


def test_a_break_whose_text_is_gone_is_an_error(tmp_path):
    """A table that has rotted is not taken for a campaign that misses."""
    one = dataclasses.replace(BREAKS[0], edits=(("no such text", ""),))
    path = tmp_path / one.file
    path.parent.mkdir(parents=True)
    shutil.copyfile(ROOT / one.file, path)
    with pytest.raises(ValueError, match=r"files\.py: holds 'no such text' 0"):
        one.apply(tmp_path)


def test_each_was_caught_and_stands_on_the_page():
    """Whoever adds a break runs it and commits what it said."""
    told = json.loads((ROOT / "docs/breaks.json").read_text())["breaks"]
    assert [row["break"] for row in told] == [one.name for one in BREAKS]
    assert [row["family"] for row in told] == [one.family for one in BREAKS]
    assert all(row["told"] for row in told)
    table = figures(ROOT / "docs/reliability.json")["reliability-breaks"]
    assert all(one.name in table for one in BREAKS)
