"""Says where words are counted otherwise than one may expect."""

import functools
import logging

from speechbrain_ext.scores.language import ENGLISH, normaliser_name

logger = logging.getLogger(__name__)
# A few English texts have a word such as café.
FOREIGN_SHARE = 0.05


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
