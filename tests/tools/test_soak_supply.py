"""What could not be asked of a database of weaknesses is not survived."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from soak.supply import audited  # noqa: E402


def test_packages_that_were_not_asked_for_are_not_counted(capsys):
    """pip-audit ends well without a network, too: it skips all of them."""
    skipped = {"name": "numpy", "skip_reason": "not found on PyPI"}
    assert list(audited([skipped])) == []
    assert "1 packages not tried (not found" in capsys.readouterr().out
    weak = {"name": "a", "version": "1", "vulns": [{"id": "X-1"}]}
    sound = {"name": "b", "version": "1", "vulns": []}
    told = [(one.which, one.wrong) for one in audited([weak, sound, skipped])]
    assert told == [("a", "X-1"), ("b", "")]
