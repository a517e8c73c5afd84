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
import logging
import re
from pathlib import Path

from speechbrain_ext.later import later

logger = logging.getLogger(__name__)
ENGLISH, BASIC, CHARACTERS = (
    "whisper-english",
    "whisper-basic",
    "whisper-basic-characters",
)
# Without spaces between words: Whisper's own evaluation counts characters.
UNSPACED = ("zh", "yue", "ja", "th", "lo", "my")
CODE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*")
# A few English texts have a word such as café.
FOREIGN_SHARE = 0.05
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


def tell_normaliser(language, references):
    """Say, once, where words are counted otherwise than one may expect.

    Arguments
    ---------
    language : str or None
        As for `normaliser_name`.
    references : list of str
        The texts of a set.
    """
    name = normaliser_name(language)
    if name != ENGLISH:
        _warn_once(
            f"language {language}: Whisper has no normaliser of its own for "
            f"it, so words go through {name} (lower case, no punctuation; "
            "numbers and spellings stay as they are)"
        )
        return
    if language is None:
        _warn_once(f"no language is given: words go through {name}")
    foreign = sum(any(map(_is_foreign, text)) for text in references)
    if foreign > FOREIGN_SHARE * len(references):
        letters = sorted(set(filter(_is_foreign, "".join(references))))
        _warn_once(
            f"{foreign} of {len(references)} references have letters that "
            f"English does not ({' '.join(letters[:10])}), but words go "
            f"through {name}: give the set's language (--language de)"
        )


def _is_foreign(letter):
    return letter.isalpha() and not letter.isascii()


@functools.lru_cache
def _warn_once(message):
    logger.warning(message)


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
