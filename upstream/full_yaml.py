"""One full YAML for each variant, as SpeechBrain's recipes have them."""

import functools
import re

import yaml

from speechllm.settings import merge

BLOCK = "experiment"
BLOCK_HEAD = f"""
# What the experiment takes of all this
{BLOCK}:
"""
RULE = 80
# Options of SpeechBrain's own that a YAML may set.
RUN_OPTIONS = (
    "precision",
    "eval_precision",
    "grad_accumulation_factor",
    "max_grad_norm",
)


def full_yaml(path, read_by_library, dropped=()):
    """The YAML that a variant stands for: nothing included, nothing resolved."""
    text = merged(path)
    for key in dropped:
        text = without_key(text, key)
    text = with_head(text, own_head(path))
    text += BLOCK_HEAD
    for key in top_keys(text):
        if key in read_by_library or key in RUN_OPTIONS:
            text += f"    {key}: !ref <{key}>\n"
    return with_banners(text)


@functools.lru_cache(maxsize=None)
def merged(path):
    """Base and variants as one text, fragments written in."""
    return merge(path, self_contained=True)


def own_head(path):
    """A variant's head comment; empty for a base."""
    with open(path, encoding="utf-8") as stream:
        text = stream.read()
    if not re.search(r"^base:", text, re.MULTILINE):
        return []
    lines = text.split("\n")
    count = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return lines[:count]


def with_head(text, head):
    """A base's banner with a variant's own lines in place of its command."""
    return re.sub(
        r"^# Command:.*\n(?:#   .*\n)*",
        lambda found: "".join(f"{line}\n" for line in head),
        text,
        count=1,
        flags=re.MULTILINE,
    )


def without_key(text, key):
    """A YAML without a top-level key, its value and its own comment."""
    text, count = re.subn(
        rf"^(?:#.*\n)*{key}: *\S.*\n", "", text, count=1, flags=re.MULTILINE
    )
    if not count:
        raise ValueError(f"{key}: not among the YAML's keys")
    return text


def top_keys(text):
    """The top-level keys of a YAML, in order."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    return [key.value for key, _ in root.value]


def with_banners(text):
    """Each section's short comment as a banner across the page."""

    def banner(found):
        return f"\n\n{'#' * 24} {found.group(1)} ".ljust(RULE + 2, "#") + "\n"

    # A section's name is short and has no sentence in it.
    return re.sub(r"\n\n# ([^\n.;#=]{3,45})\n(?=[a-z_]+:)", banner, text)
