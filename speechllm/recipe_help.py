"""What a recipe's script says to ``--help``: its own keys, with comments."""

from __future__ import annotations

import itertools
import sys
import textwrap
from pathlib import Path

from speechbrain.utils.run_opts import RunOptions

from speechllm.keys import LAST, Key, read_keys
from speechllm.settings import base_chain

WIDTH = 79
MARGIN = " " * 6
NO_OPTIONS = ("param_file", "overridden_args")


def recipe_help(argv: list[str]) -> str:
    """The help of a recipe's command line: how it is called, and every key.

    The keys are those of the YAML that is named, or of ``hparams/train.yaml``
    beside the script.
    """
    script = Path(sys.argv[0] or "train.py").resolve()
    named = [word for word in argv if word.endswith((".yaml", ".yml"))]
    path = Path(named[0]) if named else script.parent / "hparams/train.yaml"
    lines = [
        f"usage: python {script.name} hparams/NAME.yaml [--KEY VALUE ...]",
        "",
        "Every key of the YAML can be set here: --steps 1000, nested ones with",
        "dots: --backbone.source DIR. The keys, what they are by default, and",
        "what they mean:",
    ]
    keys = [
        key
        for key in read_keys(Path(base_chain(str(path))[0].file), "")
        if key.section != LAST
    ]
    sections = itertools.groupby(keys, lambda key: key.section or "General")
    for title, some in sections:
        lines += ["", f"{title}:"]
        for key in some:
            lines += _entry(key)
    lines += ["", "SpeechBrain's own options (device, debugging, compiling):"]
    names = RunOptions.__dataclass_fields__
    told = " ".join(f"--{name}" for name in names if name not in NO_OPTIONS)
    lines += textwrap.wrap(
        told, WIDTH, initial_indent="  ", subsequent_indent="  "
    )
    return "\n".join(lines)


def _entry(key: Key) -> list[str]:
    """A key on a line of its own, and its comment below or behind it."""
    value = key.default
    if value.startswith("!PLACEHOLDER"):
        value = "DIR" if key.name.endswith("folder") else "VALUE"
    head = f"  --{key.name} {value}".rstrip()
    if len(head) > WIDTH:
        head = head[: WIDTH - 3] + "..."
    about = f"({key.status}) {key.about}" if key.status else key.about
    if len(head) < 34 and len(about) < WIDTH - 36:
        return [f"{head:34s}  {about}".rstrip()]
    return [
        head,
        *textwrap.wrap(
            about, WIDTH, initial_indent=MARGIN, subsequent_indent=MARGIN
        ),
    ]
