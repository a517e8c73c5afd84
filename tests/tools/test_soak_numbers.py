"""What the campaign found in numbers, long runs and the supply chain."""

import random
import re
import tomllib

import pytest
import torch
from soak import long_runs, numbers_bad, supply, supply_written
from soak.campaign import Setting
from soak.world import make_world
from speech_llm_fixtures import make_features, make_model

from speechbrain_ext.model.static_decoding import StaticDecoding
from speechllm.exported import load as exported


class Few(Setting):
    """Two of each kind: a test, no campaign."""

    def many(self, quick, full):
        return 2


@pytest.fixture
def few(tmp_path):
    return Few(True, 3, tmp_path)


def test_a_nan_of_an_earlier_batch_is_not_seen_in_fixed_buffers(source):
    model = make_model(source).eval()
    limits = torch.tensor([9, 9])
    good, lengths = make_features([3, 2])
    clean = model.answer(good, lengths, limits)
    assert all(one.finite and one.ids for one in clean)
    model.decoder.static = StaticDecoding()
    bad, longer = make_features([9, 8])
    bad[1, 0, 0] = float("nan")
    said = model.answer(bad, longer, limits)
    assert [one.finite for one in said] == [True, False]
    assert model.answer(good, lengths, limits) == clean


@pytest.mark.parametrize("part", ["looked_at", "trained", "measured"])
def test_whose_number_is_none_is_told(part, few, decoder_folders):
    source = decoder_folders["qwen2"]
    outcomes = list(getattr(numbers_bad, part)(few, "qwen2", source))
    assert len(outcomes) >= 4
    assert [one for one in outcomes if one.wrong] == []


def test_a_recording_without_numbers_leaves_the_others_as_they_are(
    few, decoder_folders, tmp_path
):
    source = decoder_folders["llama"]
    outcomes = list(numbers_bad.transcribed(few, "llama", source, tmp_path))
    assert len(outcomes) == 2
    assert [one for one in outcomes if one.wrong] == []


def test_a_result_names_commits_and_hashes(few, tmp_path):
    world = make_world(tmp_path / "world")
    other = supply_written.make_decoder("qwen2", tmp_path / "other", seed=9)
    hub = supply.FakeHub(tmp_path / "hub")
    try:
        for commit, folder in zip(
            supply_written.COMMITS, (world.decoder, other)
        ):
            hub.add(supply_written.NAME, folder, commit)
        outcomes = list(supply_written.noted(few, world, other, hub))
    finally:
        hub.close()
    assert [one.wrong for one in outcomes] == ["", "", ""]


def test_what_is_written_is_read_by_whom_the_umask_lets(few, tmp_path):
    world = make_world(tmp_path / "world")
    outcomes = list(supply_written.rights(few, world))
    assert len(outcomes) == 9
    assert [one for one in outcomes if one.wrong] == []


def test_an_export_is_fetched_by_revision(monkeypatch, tmp_path):
    asked = []

    def fetch(source, revision=None, **options):
        asked.append((source, revision))
        raise OSError("no network")

    monkeypatch.setattr(exported, "snapshot_download", fetch)
    for source, revision in (("me/a", None), ("me/a@v1", None), ("me/a", "x")):
        with pytest.raises(ValueError, match="me/a"):
            exported.find_export(source, revision)
    assert asked == [("me/a", None), ("me/a", "v1"), ("me/a", "x")]


def test_licences_are_free_or_on_the_page():
    outcomes = list(supply.licences())
    assert len(outcomes) > 30
    # What else is installed is its owner's: the campaign tells of all.
    text = (supply.ROOT / "pyproject.toml").read_text("utf-8")
    ours = tomllib.loads(text)["project"]["dependencies"]
    names = {re.match(r"[\w.-]+", one)[0].lower() for one in ours}
    assert [x for x in outcomes if x.wrong and x.which.lower() in names] == []


def test_a_licence_that_nobody_wrote_down_is_told():
    class Head(dict):
        def get_all(self, key):
            return []

    class Package:
        files = ()
        metadata = Head({"License": "AGPL-3.0"})

    assert "not on" in supply.bound("some", Package, {})
    assert "says MIT" in supply.bound("some", Package, {"some": "MIT"})
    assert supply.bound("some", Package, {"some": "AGPL"}) == ""
    Package.metadata = Head()
    assert "names no licence" in supply.bound("some", Package, {})


def seen(leak=0, files=0, threads=0, slower=0.0):
    """A run of 500 steps that grows by so much."""
    dice = random.Random(5)
    found = long_runs.Seen()
    for step in range(0, 500, 8):
        found.steps.append(step)
        noise = dice.choice([0, 0, 0, 4096, 64 * 4096])
        # The allocator takes much at first.
        warm = min(step, 60) * 100_000
        found.resident.append(400_000_000 + warm + noise + leak * step)
        found.files.append(9 + files * (step // 40))
        found.threads.append(3 + threads * (step // 40))
    found.seconds = [
        0.02 * (1 + slower * step / 500) + dice.random() / 1000
        for step in range(500)
    ]
    return found


def test_what_grows_in_a_long_run_is_noticed():
    bound = long_runs.LEAK[True]
    assert long_runs.grown(seen(), bound) == {}
    assert set(long_runs.grown(seen(leak=4096), bound)) == {"memory"}
    assert set(long_runs.grown(seen(files=1), bound)) == {"open files"}
    assert set(long_runs.grown(seen(threads=1), bound)) == {"threads"}
    assert set(long_runs.grown(seen(slower=2.0), bound)) == {"speed"}
