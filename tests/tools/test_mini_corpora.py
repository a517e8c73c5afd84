"""The mini world in CoVoST 2's and Loquacious's layouts, read by the recipes.

Authors
 * The speechbrain_ext authors, 2026
"""

import sys

import pyarrow.parquet as pq
import pytest
from recipe_scripts import RECIPES

from speechbrain_ext.data.audio import read_utterance
from speechbrain_ext.data.sets import read_manifest
from speechllm.mini_world.corpus.command import main
from speechllm.mini_world.corpus.covost2 import build_covost2
from speechllm.mini_world.corpus.librispeech import plan_splits
from speechllm.mini_world.corpus.loquacious import build_loquacious
from speechllm.mini_world.corpus.text import spoken_form

sys.path += [str(RECIPES / name) for name in ("CoVoST2", "Loquacious")]
from covost2_prepare import prepare_covost2  # noqa: E402
from loquacious_prepare import prepare_loquacious  # noqa: E402

SIZES = {"train": 5, "dev": 2, "test": 3}


@pytest.fixture(scope="module", params=[("en", "de"), ("fr", "en")])
def pair(request, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("covost2"))
    return *request.param, build_covost2(folder, *request.param, SIZES)


def test_the_recipe_reads_the_mini_covost(pair, tmp_path):
    source, target, root = pair
    found = prepare_covost2(root, str(tmp_path), source, target)
    clips = set()
    for split, size in SIZES.items():
        name = f"{source}_{target}_{split}"
        rows = read_manifest(str(tmp_path / f"{name}.csv"), found)
        assert len(rows) == size
        for row in rows.values():
            wav_N = read_utterance(row["wav"], resample=True)
            assert len(wav_N) / 16000 == pytest.approx(float(row["duration"]))
            assert 0.5 < float(row["duration"]) < 12
            # Mixed case and punctuation, and not the same language twice.
            assert row["translation"][0].isupper()
            assert row["translation"][-1] in ".?!"
            assert row["sentence"] != row["translation"]
            clips.add(row["wav"])
    assert len(clips) == sum(SIZES.values())


def test_both_directions_say_the_same(tmp_path):
    """English is one pair's source and the other's target."""
    there = build_covost2(str(tmp_path), "en", "de", {"test": 4})
    back = build_covost2(str(tmp_path), "fr", "en", {"test": 4})

    def column(root, pair, index):
        with open(f"{root}/covost_v2.{pair}.test.tsv") as stream:
            return [row.split("\t")[index] for row in stream][1:]

    assert column(there, "en_de", 1) == column(back, "fr_en", 2)


@pytest.mark.parametrize("languages", [("en", "en"), ("en", "it")])
def test_unknown_languages_are_refused(languages, tmp_path):
    with pytest.raises(ValueError, match="choose two of"):
        build_covost2(str(tmp_path), *languages)


def test_the_recipe_reads_the_mini_loquacious(tmp_path):
    root = build_loquacious(str(tmp_path), {"dev": 12})
    data_root = prepare_loquacious(root, str(tmp_path / "out"), ["dev"])
    rows = read_manifest(str(tmp_path / "out" / "dev.csv"), data_root)
    # The sentences of LibriSpeech's split ood.
    said, _ = plan_splits(str(tmp_path / "plan"), {"ood": 12}, seed=0)
    assert [row["wrd"] for row in rows.values()] == [
        spoken_form(one.text) for one in said
    ]
    (file,) = (tmp_path / "LoquaciousSet" / "dev").iterdir()
    assert pq.ParquetFile(file).metadata.num_rows == 12


def test_the_command_line_builds_what_is_named(tmp_path, monkeypatch, capsys):
    built = []

    def build(folder, **options):
        built.append((folder, options))
        return "Q"

    monkeypatch.setattr(
        "speechllm.mini_world.corpus.command.CORPORA",
        {"librispeech": None, "loquacious": (build, {"small": 9, "dev": 5})},
    )
    words = ["--corpora", "loquacious", "--seed", "3", "--sizes", '{"dev": 1}']
    main([str(tmp_path), *words])
    assert capsys.readouterr().out == "Q\n"
    sizes = {"small": 9, "dev": 1}
    told = {"sizes": sizes, "seed": 3, "processes": 2}
    assert built == [(str(tmp_path), told)]
