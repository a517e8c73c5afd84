"""Scores: by hand, beside other implementations, and how sure they are.

Authors
 * The speechbrain_ext authors, 2026
"""

import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest

from speechbrain_ext.scores import telling, translation
from speechbrain_ext.scores.counts import STATISTICS, utterance_counts
from speechbrain_ext.scores.intervals import (
    relative_degradation,
    sign_permutation,
)
from speechbrain_ext.scores.score import score_recognition, score_translation
from speechbrain_ext.scores.translation import sentence_counts
from speechbrain_ext.scores.words import (
    WordErrors,
    normalise_english,
    wer,
    word_errors,
)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("a b c", "a b c", (0, 0, 0, 3)),
        ("a b c", "a x c", (0, 0, 1, 3)),
        ("a b c", "a c", (0, 1, 0, 3)),
        ("a b c", "a b b c d", (2, 0, 0, 3)),
        # Faults of other tools: an empty hypothesis is no substitution.
        ("a b c", "", (0, 3, 0, 3)),
        ("one", "", (0, 1, 0, 1)),
        ("", "a b", (2, 0, 0, 0)),
        ("", "", (0, 0, 0, 0)),
        ("  a   b ", "a b", (0, 0, 0, 2)),
    ],
)
def test_word_errors_by_hand(reference, hypothesis, expected):
    """Word errors by hand."""
    found = word_errors(reference, hypothesis, normalise=None)
    assert found == WordErrors(*expected)


def fewest_edits(said, written):
    """Errors of a shortest path, straight from the definition."""
    if not said or not written:
        return len(said) + len(written)
    return min(
        fewest_edits(said[:-1], written) + 1,
        fewest_edits(said, written[:-1]) + 1,
        fewest_edits(said[:-1], written[:-1]) + (said[-1] != written[-1]),
    )


def test_word_errors_are_the_fewest_and_add_up():
    """Word errors are the fewest there can be, whichever path is taken."""
    draw = random.Random(1)
    for _ in range(200):
        said = draw.choices("abc", k=draw.randint(0, 6))
        written = draw.choices("abc", k=draw.randint(0, 6))
        pair = " ".join(said), " ".join(written)
        found = word_errors(*pair, normalise=None)
        assert found.errors == fewest_edits(said, written)
        assert found.words == len(said)
        longer = len(written) - len(said)
        assert found.insertions - found.deletions == longer
        assert found.deletions + found.substitutions <= len(said)
        back = word_errors(*pair[::-1], normalise=None)
        assert back.errors == found.errors


def test_of_equal_paths_that_of_kaldi_is_taken():
    """Of equal paths that of Kaldi is taken, as the docstring says."""
    for pair, expected in {
        ("a b", "b c"): (1, 1, 0, 2),
        ("b c", "a b"): (1, 1, 0, 2),
        ("a b c", "x y"): (0, 1, 2, 3),
        ("a", "a a"): (1, 0, 0, 1),
    }.items():
        found = word_errors(*pair, normalise=None)
        assert found == WordErrors(*expected), pair
    said = " ".join(word_errors.__doc__.split())
    assert "insertion before a deletion before a pair" in said


def test_wer_is_over_the_whole_set():
    """Wer is over the whole set."""
    pairs = [("a b c d e f g h", "a b c d e f g h"), ("x y", "x z w")]
    assert wer(pairs, normalise=None) == pytest.approx(20.0)


def test_wer_counts_what_was_written_to_an_empty_reference():
    """Wer counts what was written to an empty reference."""
    # "Uh" normalises to nothing: its utterance still adds an insertion.
    assert wer([("Uh.", "hello"), ("a b", "a b")]) == 50.0


def test_wer_without_any_word_is_refused():
    """Wer without any word is refused."""
    with pytest.raises(ValueError, match="no word in the references of 2"):
        wer([("uh", "a"), ("", "")])
    assert math.isnan(WordErrors(1, 0, 0, 0).wer)


# What openai-whisper 20250625 itself gives for these.
NORMALISED = {
    "Mr. O'Neil's colour, twenty-one": "mister 0 neil is color 21",
    "Mr. Park visited Assoc. Prof. Kim Jr.": (
        "mister park visited associate professor kim junior"
    ),
    "she's been like": "she has been like",
    "two dollars and seventy cents": "$2.70",
    "one triple oh one": "10001",
    "three thousand twenty nine": "3029",
    "mobilisation": "mobilization",
    "WON'T CAN'T LET'S": "will not can not let us",
    "hmm [noise] well (laughs) um": "well",
    "": "",
}


@pytest.mark.parametrize(("text", "expected"), NORMALISED.items())
def test_normaliser_golden(text, expected):
    """Normaliser golden."""
    assert normalise_english(text) == expected


def test_word_errors_are_normalised_unless_told_otherwise():
    """Word errors are normalised unless told otherwise."""
    pair = "The colour is twenty one.", "the color is 21"
    assert word_errors(*pair).errors == 0
    assert word_errors(*pair, normalise=None).errors > 0


REFS = [
    "Das Haus steht am Rand der kleinen Stadt.",
    "Heute Abend kommt Anna mit dem Zug aus Köln.",
    "Er fragt: »Wo liegt mein Buch?«",
    "Wir haben drei Äpfel gekauft.",
]
HYPS = [
    "Das Haus steht am Rand der Stadt.",
    "Anna kommt heute Abend mit dem Zug aus Köln.",
    "Er fragt: »Wo liegt das Buch?«",
    "",
]


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_translation_scores_equal_the_command_line(tmp_path, name):
    """Translation scores equal the command line."""
    for file, lines in (("refs", REFS), ("hyps", HYPS)):
        (tmp_path / file).write_text("\n".join(lines) + "\n", "utf-8")
    command = [sys.executable, "-m", "sacrebleu", str(tmp_path / "refs")]
    command += ["-i", str(tmp_path / "hyps"), "-m", name, "-w", "6"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    official = json.loads(run.stdout)
    found = getattr(translation, name)(HYPS, REFS)
    assert round(found.value, 6) == official["score"]
    assert found.signature == official["signature"]
    assert found.metric.lower() == name


ASIAN = {
    "zh-CN": ("zh", "我昨天在公园里看见了一只狗。", "我昨天在公园看见一只狗。"),
    "ja": (
        "ja-mecab",
        "私は昨日公園で犬を見ました。",
        "私は昨日公園で犬を見た。",
    ),
    "ko": (
        "ko-mecab",
        "나는 어제 공원에서 개를 보았다.",
        "나는 어제 공원에서 개를 봤다.",
    ),
}


@pytest.mark.parametrize("language", ASIAN)
def test_bleu_counts_the_words_of_its_language(tmp_path, language):
    """Bleu counts the words of its language."""
    tokenizer, wanted, said = ASIAN[language]
    for file, line in (("refs", wanted), ("hyps", said)):
        (tmp_path / file).write_text(line + "\n", "utf-8")
    command = [sys.executable, "-m", "sacrebleu", str(tmp_path / "refs")]
    command += ["-i", str(tmp_path / "hyps"), "-w", "6", "-tok", tokenizer]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    official = json.loads(run.stdout)
    rows = [{"id": "a", "reference": wanted, "hypothesis": said}]
    score, _ = score_translation(rows, language)
    assert round(score.value, 6) == official["score"] > 20
    assert score.signature == official["signature"]
    assert f"tok:{tokenizer}" in score.signature
    assert score.language == language
    # As reports draw it again from the counts of each utterance.
    counts = utterance_counts(rows, "BLEU", language)
    drawn = STATISTICS["BLEU"](counts)
    assert drawn[0] == pytest.approx(score.value)
    # What was said of it before: less, and of Chinese next to nothing.
    assert translation.bleu([said], [wanted]).value < official["score"]


def test_bleu_into_other_languages_is_as_it_was():
    """Bleu into other languages is as it was."""
    for language in ("de", "en", "sv-SE", None):
        found = translation.bleu(HYPS, REFS, language)
        assert found == translation.bleu(HYPS, REFS)
        assert "tok:13a" in found.signature


SAID = {
    # The English normaliser would spell "I'll" out, and drop "hum" and "mm".
    "de": ("Ich hab's: 'ne Farbe, gelb.", "ich hab s ne farbe gelb", 0, 6),
    "fr": ("Hum, l'été coûte 21 €.", "hum l été coûte 20", 1, 5),
    "zh": ("我看见了狗。", "我看见狗", 1, 5),
    "en": ("I'll see the colour, hmm.", "i will see the color", 0, 5),
}


@pytest.mark.parametrize("language", SAID)
def test_the_normaliser_is_that_of_the_language(language):
    """The normaliser is that of the language."""
    reference, hypothesis, errors, words = SAID[language]
    rows = [{"id": "a", "reference": reference, "hypothesis": hypothesis}]
    score, told = score_recognition(rows, language)
    assert (told[0]["errors"], score.words) == (errors, words)
    name = {
        "en": "whisper-english",
        "zh": "whisper-basic-characters",
    }.get(language, "whisper-basic")
    assert (score.language, score.normaliser) == (language, name)
    assert f"({language}, {name})" in str(score)
    counts = utterance_counts(rows, "WER", language)
    assert counts.tolist() == [[errors, words]]


TOLD = {
    ("en", "a café", 50): "",
    ("en", "grüße aus köln", 1): (
        "1 of 1 references have letters that English does not (ß ö ü)"
    ),
    (None, "a b", 1): "no language is given: words go through whisper-english",
    ("de", "grüße", 1): "language de: Whisper has no normaliser of its own",
    ("zh", "狗", 1): "words go through whisper-basic-characters",
}


@pytest.mark.parametrize(("language", "text", "many"), TOLD)
def test_a_set_without_its_own_normaliser_is_told_once(
    language, text, many, caplog
):
    """A set without its own normaliser is told, once."""
    telling._warn_once.cache_clear()
    texts = [text, *["plain words"] * (many - 1)]
    rows = [
        {"id": str(i), "reference": one, "hypothesis": one}
        for i, one in enumerate(texts)
    ]
    for _ in range(2):
        score, _ = score_recognition(rows, language)
    told, expected = caplog.messages, TOLD[language, text, many]
    assert len(told) == bool(expected) and expected in "".join(told)
    assert score.normaliser in str(score)


def test_answers_at_their_limit_are_counted():
    """Answers at their limit are counted."""
    rows = [
        {"id": str(i), "reference": "a b", "hypothesis": "a", "hit_limit": hit}
        for i, hit in enumerate([True, False, True])
    ]
    for score in (score_recognition, score_translation):
        found, told = score(rows)
        assert found.hit_limit == 2
        assert str(found).endswith("2 of 3 at token limit")
        assert [row["hit_limit"] for row in told] == [True, False, True]
        # As an older hypotheses file has them: not known.
        old = [{k: v for k, v in r.items() if k != "hit_limit"} for r in rows]
        assert score(old)[0].hit_limit is None


@pytest.mark.parametrize("score", [score_recognition, score_translation])
def test_speakers_are_counted_where_they_are_known(score):
    """Speakers are counted where they are known."""
    rows = [
        {"id": str(i), "reference": "a b", "hypothesis": "a", "speaker": who}
        for i, who in enumerate(["ann", "cy", "bob", "ann"])
    ]
    found, told = score(rows)
    assert found.speakers == 3
    assert [row["speaker"] for row in told] == ["ann", "cy", "bob", "ann"]
    # Some are not known: the interval is over utterances.
    rows[1]["speaker"] = None
    assert score(rows)[0].speakers is None
    # As an older hypotheses file has them.
    old = [{k: v for k, v in r.items() if k != "speaker"} for r in rows]
    assert score(old)[0].speakers is None


@pytest.mark.parametrize("name", ["BLEU", "chrF"])
def test_exchanges_of_sentences_agree_with_sacrebleus_own_test(name):
    """Exchanges of sentences agree with SacreBLEU's own paired test.

    It exchanges sentences alone, by chance alone: ours does so by speaker,
    one by one where they are few, and for word errors too.
    """
    from sacrebleu.metrics import BLEU, CHRF
    from sacrebleu.significance import PairedTest

    draw = random.Random(5)
    words = "rot grün blau alt neu gut klein groß Haus Hund Stadt".split()
    refs = [" ".join(draw.choices(words, k=12)) for _ in range(60)]
    said = {
        system: [
            " ".join(w if draw.random() > rate else "und" for w in ref.split())
            for ref in refs
        ]
        for system, rate in (("a", 0.2), ("b", 0.24))
    }
    metric = BLEU() if name == "BLEU" else CHRF()
    test = PairedTest(
        list(said.items()), {name: metric}, [refs], "ar", n_samples=4000
    )
    theirs = list(test()[1].values())[-1]
    counts = {k: sentence_counts(name, v, refs) for k, v in said.items()}
    statistic = STATISTICS[name]
    for one, result in zip(counts.values(), theirs):
        total = one.sum(axis=0, keepdims=True)
        assert statistic(total)[0] == pytest.approx(result.score)
    p = sign_permutation(*counts.values(), statistic)
    assert 0.01 < p < 0.9
    assert p == pytest.approx(theirs[1].p_value, abs=0.03)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_summed_sentence_counts_give_the_corpus_score(name):
    """Summed sentence counts give the corpus score."""
    metric = {"bleu": "BLEU", "chrf": "chrF"}[name]
    counts = sentence_counts(metric, HYPS, REFS)
    sums = np.stack([counts.sum(axis=0), counts[:2].sum(axis=0)])
    scores = STATISTICS[metric](sums)
    score = getattr(translation, name)
    assert scores[0] == pytest.approx(score(HYPS, REFS).value, abs=1e-9)
    assert scores[1] == pytest.approx(score(HYPS[:2], REFS[:2]).value)


def test_translation_scores_refuse_unequal_lists():
    """Translation scores refuse unequal lists."""
    with pytest.raises(ValueError, match="4 hypotheses but 3 references"):
        translation.bleu(HYPS, REFS[:3])
    with pytest.raises(ValueError, match="empty"):
        translation.chrf([], [])
    with pytest.raises(TypeError, match="lists"):
        translation.bleu("a text", "a text")


def test_relative_degradation():
    """Relative degradation."""
    # The paper's Table 1: Qwen2.5-7B, test-clean, 8 of 28 layers.
    assert relative_degradation(2.36, 2.01) == pytest.approx(0.1741, 1e-3)
    assert relative_degradation(
        36.09, 39.03, higher_is_better=True
    ) == pytest.approx(0.0753, 1e-3)
    for baseline in (0.0, math.nan, -1.0):
        with pytest.raises(ValueError, match="baseline above zero"):
            relative_degradation(1.0, baseline)
