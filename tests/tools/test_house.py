"""The house stays small: directions, paths and one place for each idea."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("house", ROOT / "tools/house.py")
house = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(house)


def in_git():
    git = shutil.which("git")
    found = git and subprocess.run(
        [git, "rev-parse"], cwd=ROOT, capture_output=True
    )
    return bool(found) and found.returncode == 0


@pytest.mark.skipif(not in_git(), reason="counts what git lists")
def test_the_house_holds():
    assert house.faults() == []


def test_a_wrong_way_is_seen():
    files = {
        "speechbrain_ext/a.py": "def f():\n    from speechllm import settings",
        "speechllm/b.py": "from speechbrain_ext import a",
    }
    assert house.wrong_ways(files) == [
        "speechbrain_ext/a.py imports speechllm",
        "speechbrain_ext/a.py imports speechllm.settings",
    ]


def test_a_second_place_and_a_broken_path_are_seen():
    twice = "import os\nos.replace(a, b)\n"
    files = {"speechllm/a.py": twice, "speechllm/b.py": twice, "c.py": ""}
    places = house.places(files)
    assert places["atomic write"] == ["speechllm/a.py", "speechllm/b.py"]
    path = ["speechllm/a.py", "speechllm/b.py"]
    assert house.broken_steps(files, path) == [
        "nothing before speechllm/b.py imports it"
    ]


def test_lines_of_code_and_docstrings_are_told_apart():
    text = '"""One.\n\nTwo."""\n\n# why\nx = 1\n'
    assert house.count(text) == (6, 1, 3)
