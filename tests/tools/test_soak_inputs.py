"""What the campaign found in files of our own, each file again.

``found/KIND--PLACE--WHAT`` stands in the place PLACE (``+`` for ``/``) of
sound files of a kind of `soak.inputs_kinds`.
"""

import random
import shutil
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "soak"
sys.path.insert(0, str(SOAK.parent))

from soak.campaign import Setting  # noqa: E402
from soak.inputs_kinds import KINDS  # noqa: E402
from soak.inputs_watch import Seen, cases, judge  # noqa: E402

FOUND = sorted((SOAK / "found").glob("*--*--*"))
KINDS = {kind.name: kind for kind in KINDS}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A function: the folder of a kind's sound files."""
    made = {}

    def of(kind):
        if kind.name not in made:
            made[kind.name] = tmp_path_factory.mktemp(kind.name)
            kind.make(made[kind.name])
        return made[kind.name]

    return of


@pytest.mark.parametrize("file", FOUND, ids=lambda file: file.name)
def test_found(file, sound, tmp_path, monkeypatch):
    """Survived, whichever of its commands a kind is read by."""
    name, target, _ = file.name.split("--")
    kind = KINDS[name]
    place = tmp_path / "place"
    shutil.copytree(sound(kind), place)
    (place / "out").mkdir()
    path = place / target.replace("+", "/")
    shutil.copyfile(file, path)
    if kind.sign:
        kind.sign(place)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPEECHLLM_DEBUG", raising=False)
    seen = Seen(tmp_path)
    for seed in range(3):
        wrong = judge(kind, place, path, seen, random.Random(seed))
        assert not wrong


def test_a_fault_is_caught(tmp_path):
    """The watch itself: each way of doing harm is told."""
    import dataclasses
    import os

    def none(place):
        (place / "a.json").write_text("{}")

    harms = {
        "traceback": lambda place: {}["a"],
        "not a word": lambda place: 1,
        "did": lambda place: os.system("true") and 0,
        "left": lambda place: (place / "b").write_text("x") and 0,
        "removed": lambda place: (place / "c.json").unlink(),
        "died": lambda place: os.abort(),
        "said": lambda place: bytearray(2**32) and 0,
    }
    for told, harm in harms.items():

        def read(place, numbers, harm=harm):
            first = not (place.parent / "first").exists()
            (place.parent / "first").touch()
            return 0 if first else harm(place)

        def make(place):
            none(place)
            (place / "c.json").write_text("{}")

        kind = dataclasses.replace(
            KINDS["tables"], name=told, make=make, read=read, files="a.json"
        )
        kind = dataclasses.replace(kind, quick=1)
        (outcome,) = cases(kind, Setting(True, 1, tmp_path))
        assert told in outcome.wrong or told in ("said", "died"), outcome
        assert outcome.wrong
