"""What a language decides about a score: its normaliser.

Whisper's English normaliser spells out
contractions and numbers and rewrites British English, so that it would change
the words of any other language.

The English normaliser's spelling map, ``whisper_english_spelling.json``, is the file
``whisper/normalizers/english.json`` of openai-whisper 20250625, unchanged:
Copyright (c) 2022 OpenAI, MIT licence, whose text is in
``whisper_english_spelling.LICENSE``. With it nothing has to be downloaded.
"""

import functools
import json
import re
from pathlib import Path

from speechbrain_ext.later import later

ENGLISH, BASIC, CHARACTERS = (
    "whisper-english",
    "whisper-basic",
    "whisper-basic-characters",
)
# Without spaces between words: Whisper's own evaluation counts characters.
UNSPACED = ("zh", "yue", "ja", "th", "lo", "my")
CODE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*")
SPELLING_MAP = Path(__file__).parent / "whisper_english_spelling.json"


def base_language(language):
    """A language's code without its region."""
    if not isinstance(language, str) or not CODE.fullmatch(language):
        raise ValueError(
            f"{language!r} is no code of a language: write en, zh-CN or such"
        )
    return re.split("[-_]", language)[0].lower()


def language_of(settings):
    """The language that a run's settings have it write.

    Arguments
    ---------
    settings : dict
        Keys used: target_language, language.

    Returns
    -------
    str
        "en" where they do not tell.
    """
    # Runs older than the key were scored as English.
    return settings.get("target_language") or settings.get("language", "en")


def normaliser_name(language=None):
    """Which of Whisper's normalisers a language's word errors go through.

    Arguments
    ---------
    language : str or None
        Such as "en" or "pt-BR"; None: English, which older results are.

    Returns
    -------
    str
        "whisper-english"; "whisper-basic" (lower case, no punctuation) for
        other languages; "whisper-basic-characters" where words have no
        spaces between them: the rate is one of characters then.

    Raises
    ------
    ValueError
        If it is no code of a language.
    """
    code = "en" if language is None else base_language(language)
    if code == "en":
        return ENGLISH
    return CHARACTERS if code in UNSPACED else BASIC


@functools.lru_cache
def load_normaliser(name):
    """A normaliser, built once: the English one's tables take a moment.

    Arguments
    ---------
    name : str
        As from `normaliser_name`.

    Returns
    -------
    callable
        Text to text.
    """
    # This submodule of transformers is plain Python: it brings no torch.
    from transformers.models.whisper import english_normalizer as whisper

    if name == ENGLISH:
        spelling = json.loads(SPELLING_MAP.read_text("utf-8"))
        return whisper.EnglishTextNormalizer(spelling)
    return whisper.BasicTextNormalizer(split_letters=name == CHARACTERS)


def form_of(metric, language=None):
    """What texts are turned into before a metric counts.

    Two scores can be compared where it is the same.

    Arguments
    ---------
    metric : str
        "WER", "BLEU" or "chrF".
    language : str or None
        That of the score; None: as older results were scored.

    Returns
    -------
    str
    """
    if metric == "WER":
        return normaliser_name(language)
    if metric != "BLEU":
        return "characters"
    return later("scores.translation", metric).bleu_tokenizer(language)
