"""The mini world in CoVoST 2's and Loquacious's layouts, read by the recipes.

Authors
 * The speechbrain_ext authors, 2026
"""

import hashlib
import json
import os
import sys

import pyarrow.parquet as pq
import pytest
from recipe_scripts import RECIPES

from speechbrain_ext.data.audio import read_utterance
from speechbrain_ext.data.rows import read_manifest
from speechllm.mini_world.corpus.command import CORPORA, Corpus, hashes, main
from speechllm.mini_world.corpus.covost2 import build_covost2
from speechllm.mini_world.corpus.librispeech import plan_splits
from speechllm.mini_world.corpus.loquacious import build_loquacious
from speechllm.mini_world.corpus.text import spoken_form
from speechllm.mini_world.corpus.voices import speakers

sys.path += [
    str(RECIPES / name / "SpeechLLM")
    for name in ("CoVoST2/AST", "Loquacious/ASR")
]
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
        {
            "librispeech": None,
            "loquacious": Corpus(build, None, {"small": 9, "dev": 5}),
        },
    )
    words = ["--corpora", "loquacious", "--seed", "3", "--sizes", '{"dev": 1}']
    main([str(tmp_path), *words])
    assert capsys.readouterr().out == "Q\n"
    sizes = {"small": 9, "dev": 1}
    told = {"sizes": sizes, "seed": 3, "processes": 2}
    assert built == [(str(tmp_path), told)]


# --- sets that are fixed ----------------------------------------------------

# Of each split, as `python -m speechllm.mini_world.corpus --hash` prints them
# and the README tells: a set that systems were run on is not changed unseen.
HASHES = {
    "librispeech": {
        "train-clean-100": "2ebe24c67590c3b190092f2c38b4106f"
        "c01a6c8057e1a5789ad50c88c6bffbc3",
        "dev-clean": "85f6d276a302bd382d68d2e344c17fc3"
        "f9fcc1724d8f55b6ba2fde875598679d",
        "dev-other": "99ec12ae47e50b0176f36c4aca049842"
        "5453d37ac96b70a2ca851e55aabe9ae6",
        "loss-clean": "388513a23bef1e5915a989e66469abf8"
        "eff553bd459dbdd0ad2a62399220d67e",
        "loss-other": "0b42f2c1e1b7acac7893295bf2200127"
        "f18db54427f8acaddc32829e11803989",
        "test-clean": "dec4122b5f81ceb760a79b5e43002d2f"
        "895ce003fdb5f19aa77e67039ca282f3",
        "test-other": "8526de1d787c5e663fb1c30fcc197f08"
        "882e0db0e52dfab531249f4240f8fafa",
        "ood": "2846e6b21e7dff0067132a32e275a137"
        "ca26a2860af7d31a416e93b9398164b3",
    },
    "covost2-en_de": {
        "train": "339657426b5175cfd7fe27b5beb185e8"
        "ada88e0cfa77ef6d8fa07eb57fb0aa93",
        "dev": "1f580f500f55666f02bdf927f428a829"
        "b503edb0573de4fcb9647c15811008ab",
        "test": "02276a8490cdedc0c0113129b0a9a742"
        "bf47b91774b4de1ea35e2e9d36489e22",
        "loss": "fa21e3c57415fb64b8957aec7f695436"
        "716d658b5e97d3c595c1dff95d8f4cb9",
    },
    "covost2-fr_en": {
        "train": "eeec5f5cd99f16f433a993ba1226721a"
        "a59e1cf07fd41769488e8e6754bdc5f2",
        "dev": "976ba5099824212b4b184fea1391d581"
        "6e46f78b1de5a0620cb89b7c11adb096",
        "test": "8b55e3ad2c1824f6dd6d9ac1c1dc2081"
        "c6c07b2af304b35be610d7a7c8bd7024",
        "loss": "890f606777915f62c209939827855ff9"
        "139779d91abce6a8c3d7eaeaa8291af2",
    },
    "loquacious": {
        "small": "71729438a4c719344b3eb64c846adfa2"
        "892c94f318aa03c5f743183303e2f861",
        "dev": "cd6cab17e589c91a8dbef37adc417b5c"
        "689c85adb128d8c6172a511ebaa0dde2",
    },
}
# What training reads is the same as before there were other speakers.
TRAINED = {
    "librispeech": "02df16a8c4a7d4b79cadc87be14b9b901a0d439ca145d9f9966b10b7"
    "af0d037f",
    "covost2-en_de": "7125213b9116752e507eb53e9a9ccc395bd218c51c8112de43c7aba3"
    "d77d0a26",
    "covost2-fr_en": "0da1c2ff9134d54d15b66d392552ef18d1d102d25fb88cb6832411cf"
    "d24d9d69",
    "loquacious": "c006cf56039b562e57789fee305c866ae38d1faa013fa5d6818e90c36d"
    "66b3de",
}
SOUND = ("text", "voice", "rate", "pitch", "range", "snr", "seed")


@pytest.mark.parametrize("name", CORPORA)
def test_every_split_is_what_the_readme_says(name):
    assert hashes(CORPORA[name], CORPORA[name].sizes, 0) == HASHES[name]


def test_the_hash_is_of_what_is_said_and_how():
    corpus = CORPORA["librispeech"]
    sizes = {"dev-clean": 40, "test-clean": 80}
    first = hashes(corpus, sizes, 0)
    assert first == hashes(corpus, sizes, 0)
    assert first["test-clean"] != hashes(corpus, sizes, 1)["test-clean"]
    # How many another split has is nothing to it.
    fewer = hashes(corpus, {**sizes, "dev-clean": 20}, 0)
    assert first["test-clean"] == fewer["test-clean"]


@pytest.mark.parametrize("name", CORPORA)
def test_what_training_reads_has_not_changed(name, tmp_path):
    corpus = CORPORA[name]
    (train,) = set(corpus.sizes) & {"train-clean-100", "train", "small"}
    sizes = {train: corpus.sizes[train]}
    utterances, _ = corpus.plan(str(tmp_path), sizes, 0)[train]
    digest = hashlib.sha256()
    for one in utterances:
        how = [getattr(one, key) for key in SOUND]
        digest.update(json.dumps([os.path.basename(one.path), *how]).encode())
        assert (one.tract, one.tilt, one.speaker) == (1.0, 0.0, one.voice)
    assert digest.hexdigest() == TRAINED[name]


@pytest.mark.parametrize("name", CORPORA)
def test_evaluation_sets_have_forty_speakers_none_like_another(name, tmp_path):
    corpus = CORPORA[name]
    plans = corpus.plan(str(tmp_path), corpus.sizes, 0)
    least = {"test-clean": 40, "test-other": 40, "ood": 40, "test": 40}
    least |= {"dev-clean": 20, "dev-other": 20, "loss": 20}
    least |= {"loss-clean": 20, "loss-other": 20}
    least |= {"dev": 40 if name == "loquacious" else 20}
    seen = {}
    for split in set(plans) & set(least):
        utterances = plans[split][0]
        names = [one.speaker for one in utterances]
        throats = {}
        for one in utterances:
            how = one.voice, one.pitch, one.range, one.tract, one.tilt
            throats.setdefault(one.speaker, set()).add(how)
        assert len(throats) >= least[split], split
        # A speaker has one throat, and nobody else has it.
        assert all(len(own) == 1 for own in throats.values())
        assert len(set.union(*throats.values())) == len(throats)
        others = {tract for ((*_, tract, _),) in throats.values()}
        assert len(others) > 15 and max(others) / min(others) > 1.08
        counts = [names.count(one) for one in throats]
        assert min(counts) == max(counts)
        seen[split] = {one.voice.split("+")[1] for one in utterances}
        # A speaker's utterances are about as fast and as noisy.
        for speaker in list(throats)[:5]:
            own = [one for one in utterances if one.speaker == speaker]
            for key, spread in (("rate", 10), ("snr", 3.1)):
                values = [getattr(one, key) for one in own]
                assert max(values) - min(values) <= spread
    if name == "librispeech":
        assert not seen["test-clean"] & (seen["dev-clean"] | seen["ood"])
        assert not seen["dev-clean"] & seen["ood"]


@pytest.mark.parametrize("kind", ["clean", "other"])
def test_losses_are_compared_on_other_speakers_than_tuning_has(kind):
    tuned, compared = speakers(f"dev-{kind}"), speakers(f"loss-{kind}")
    assert not {s.voice for s in tuned} & {s.voice for s in compared}


def test_corpora_tell_speakers_apart(tmp_path):
    root = build_covost2(str(tmp_path), "en", "de", {"test": 80})
    with open(f"{root}/covost_v2.en_de.test.tsv") as stream:
        clients = [row.split("\t")[3].strip() for row in stream][1:]
    assert len(set(clients)) == 40
    root = build_loquacious(str(tmp_path), {"dev": 80})
    (file,) = (tmp_path / "LoquaciousSet" / "dev").iterdir()
    assert len(set(pq.read_table(file)["spk_id"].to_pylist())) == 40
