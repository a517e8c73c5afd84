"""One full YAML for each variant, as SpeechBrain's recipes have them."""

from __future__ import annotations

import functools
import re
import textwrap

import yaml

from speechllm.settings import merge
from upstream.layout import OURS

RULE = 80
CHECK = "check_settings"
# The library's own rules on them all, as the YAML's last object. The values
# are handed over by name: SpeechBrain's check of YAMLs takes what neither the
# script nor a reference names for unused.
CHECK_HEAD = f"""
# Refuses what does not fit together
{CHECK}: !apply:{OURS}.training.settings.{CHECK} {{
"""


def full_yaml(
    path: str, dropped: tuple[str, ...] = (), checked: bool = True
) -> str:
    """The YAML that a variant stands for: nothing included or resolved.

    Checked: it ends by checking its own settings.
    """
    text = merged(path)
    for key in dropped:
        text = without_key(text, key)
    text = with_head(text, own_head(path))
    check = with_check(text) if checked else ""
    return with_banners(text.rstrip("\n") + "\n" + check)


@functools.cache
def merged(path: str) -> str:
    """Base and variants as one text, fragments written in."""
    return merge(path, self_contained=True)


def with_check(text: str) -> str:
    """The block that checks a YAML's settings, several to a line."""
    pairs = [f"{key}: !ref <{key}>," for key in top_keys(text)]
    # A pair stays in one line.
    words = [pair.replace(" ", "\0") for pair in pairs if "__" not in pair]
    lines = textwrap.fill(
        " ".join(words),
        RULE,
        initial_indent="    ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return CHECK_HEAD + lines.replace("\0", " ").rstrip(",") + "}\n"


def own_head(path: str) -> list[str]:
    """A variant's head comment; empty for a base."""
    with open(path, encoding="utf-8") as stream:
        text = stream.read()
    if not re.search(r"^base:", text, re.MULTILINE):
        return []
    lines = text.split("\n")
    count = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return lines[:count]


def with_head(text: str, head: list[str]) -> str:
    """A base's banner with a variant's own lines in place of its command."""
    return re.sub(
        r"^# Command:.*\n(?:#   .*\n)*",
        lambda found: "".join(f"{line}\n" for line in head),
        text,
        count=1,
        flags=re.MULTILINE,
    )


def without_key(text: str, key: str) -> str:
    """A YAML without a top-level key, its value and its own comment."""
    text, count = re.subn(
        rf"^(?:#.*\n)*{key}: *\S.*\n", "", text, count=1, flags=re.MULTILINE
    )
    if not count:
        raise ValueError(f"{key}: not among the YAML's keys")
    return text


def top_keys(text: str) -> list[str]:
    """The top-level keys of a YAML, in order."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    return [key.value for key, _ in root.value]


def with_banners(text: str) -> str:
    """Each section's short comment as a banner across the page."""

    def banner(found):
        return f"\n\n{'#' * 24} {found.group(1)} ".ljust(RULE + 2, "#") + "\n"

    # A section's name is short and has no sentence in it.
    return re.sub(r"\n\n# ([^\n.;#=]{3,45})\n(?=[a-z_]+:)", banner, text)
