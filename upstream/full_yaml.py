"""One full YAML for each variant, as SpeechBrain's recipes have them.

Authors
 * The speechbrain_ext authors, 2026
"""

import functools
import os
import re

import yaml

from speechbrain_ext.hparams.faults import ConfigError
from speechbrain_ext.hparams.overlay import Overlay

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
    """The YAML that a variant stands for: nothing included, nothing resolved.

    Arguments
    ---------
    path : str
        The variant.
    read_by_library : set of str
        Names of settings that the library reads.
    dropped : iterable of str
        Settings to leave out.

    Returns
    -------
    str
        HyperPyYAML text with comments and references kept.

    Raises
    ------
    ConfigError
        If base and variant do not fit together.

    Example
    -------
    >>> file = getfixture("tmpdir").join("train.yaml")
    >>> file.write("# Command: python train.py\\n\\nsteps: 9 # many\\n")
    >>> print(full_yaml(str(file), {"steps"}), end="")
    <BLANKLINE>
    steps: 9 # many
    <BLANKLINE>
    ######################## What the experiment takes of all this #################
    experiment:
        steps: !ref <steps>
    """
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
    """Base and variants as one text, fragments written in.

    Kept, since every plan needs it more than once and it takes a while.

    Arguments
    ---------
    path : str
        The variant.

    Returns
    -------
    str

    Example
    -------
    >>> folder = getfixture("tmpdir")
    >>> folder.join("train.yaml").write("steps: 9\\n")
    >>> folder.join("two.yaml").write("base: train.yaml\\nsteps: 2\\n")
    >>> merged(str(folder.join("two.yaml")))
    'steps: 2\\n'
    """
    overlay = Overlay(path, None, os.path.dirname(os.path.realpath(path)))
    overlay.inline_all()
    if overlay.faults:
        raise ConfigError(path, overlay.faults)
    return overlay.document.text


def own_head(path):
    """A variant's head comment; empty for a base.

    Arguments
    ---------
    path : str
        The YAML.

    Returns
    -------
    list of str
        Its lines.

    Example
    -------
    >>> file = getfixture("tmpdir").join("two.yaml")
    >>> file.write("# Two.\\nbase: train.yaml\\n")
    >>> own_head(str(file))
    ['# Two.']
    """
    with open(path, encoding="utf-8") as stream:
        text = stream.read()
    if not re.search(r"^base:", text, re.MULTILINE):
        return []
    lines = text.split("\n")
    count = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return lines[:count]


def with_head(text, head):
    """A base's banner with a variant's own lines in place of its command.

    Arguments
    ---------
    text : str
        The merged YAML, the base's banner first.
    head : list of str
        The variant's head comment.

    Returns
    -------
    str

    Example
    -------
    >>> with_head("# Model\\n# Command: a\\n#   b\\n# End\\n", ["# Two."])
    '# Model\\n# Two.\\n# End\\n'
    """
    return re.sub(
        r"^# Command:.*\n(?:#   .*\n)*",
        lambda found: "".join(f"{line}\n" for line in head),
        text,
        count=1,
        flags=re.MULTILINE,
    )


def without_key(text, key):
    """A YAML without a top-level key, its value and its own comment.

    Arguments
    ---------
    text : str
        The YAML.
    key : str
        A key with a value on its own line.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If the key is not there.

    Example
    -------
    >>> without_key("a: 1\\n# of b\\nb: 2\\n", "b")
    'a: 1\\n'
    """
    text, count = re.subn(
        rf"^(?:#.*\n)*{key}: *\S.*\n", "", text, count=1, flags=re.MULTILINE
    )
    if not count:
        raise ValueError(f"{key}: not among the YAML's keys")
    return text


def top_keys(text):
    """The top-level keys of a YAML, in order.

    Arguments
    ---------
    text : str
        HyperPyYAML text.

    Returns
    -------
    list of str

    Example
    -------
    >>> top_keys("a: 1\\nb:\\n    c: !ref <a>\\n")
    ['a', 'b']
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    return [key.value for key, _ in root.value]


def with_banners(text):
    """Each section's short comment as a banner across the page.

    Arguments
    ---------
    text : str
        HyperPyYAML text.

    Returns
    -------
    str

    Example
    -------
    >>> print(with_banners("a: 1\\n\\n# Data\\nb: 2\\n"), end="")
    a: 1
    <BLANKLINE>
    ######################## Data ##################################################
    b: 2
    """

    def banner(found):
        return f"\n\n{'#' * 24} {found.group(1)} ".ljust(RULE + 2, "#") + "\n"

    # A section's name is short and has no sentence in it.
    return re.sub(r"\n\n# ([^\n.;#=]{3,45})\n(?=[a-z_]+:)", banner, text)
