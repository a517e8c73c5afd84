"""Faults in how SpeechBrain reads and scores text, each with its example."""

import pytest
from speechbrain.dataio.dataio import load_data_csv
from speechbrain.utils.metric_stats import ErrorRateStats


@pytest.mark.xfail(strict=True, raises=AssertionError)
def test_an_empty_hypothesis_is_deletions_alone():
    stats = ErrorRateStats()
    # What a decoder gives that ends at once, split as recipes split it.
    stats.append(["a"], ["".split(" ")], ["one two".split(" ")])
    counts = stats.summarize()
    assert (counts["deletions"], counts["substitutions"]) == (2, 0)


@pytest.mark.xfail(strict=True, raises=KeyError)
def test_a_sentence_about_money_is_a_text(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("ID,duration,wav,wrd\na,1,$data_root/a.wav,it costs $5\n")
    rows = load_data_csv(str(file), {"data_root": "/data"})
    assert rows["a"]["wrd"] == "it costs $5"
