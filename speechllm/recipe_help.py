"""What a recipe's script says to ``--help``: its own keys, with comments."""

from __future__ import annotations

import os
import re
import sys
import textwrap

from speechbrain.utils.run_opts import RunOptions

KEY = re.compile(r"([A-Za-z]\w*):\s*(.*)")
# Objects are wired up in the YAML, and not set from the command line.
OBJECTS = "# Objects"
WIDTH = 79


def recipe_help(argv: list[str]) -> str:
    """The help of a recipe's command line: how it is called, and every key.

    The keys are those of the YAML that is named, or of ``hparams/train.yaml``
    beside the script.
    """
    script = sys.argv[0] or "train.py"
    folder = os.path.dirname(os.path.abspath(script))
    named = [word for word in argv if word.endswith((".yaml", ".yml"))]
    path = named[0] if named else os.path.join(folder, "hparams", "train.yaml")
    lines = [
        f"usage: python {os.path.basename(script)} hparams/NAME.yaml "
        "[--KEY VALUE ...]",
        "",
        "Every key of the YAML can be set here: --steps 1000, nested ones with",
        "dots: --backbone.source DIR. The keys, what they are by default, and",
        "what they mean:",
    ]
    for title, keys in sections(base_of(path)):
        lines += ["", f"{title}:"]
        for key, value, about in keys:
            lines += _entry(f"  --{key} {value}".rstrip(), about)
    lines += ["", "SpeechBrain's own options (device, debugging, compiling):"]
    names = RunOptions.__dataclass_fields__
    told = " ".join(f"--{name}" for name in names if name not in _NO_OPTIONS)
    lines += textwrap.wrap(
        told, WIDTH, initial_indent="  ", subsequent_indent="  "
    )
    return "\n".join(lines)


_NO_OPTIONS = ("param_file", "overridden_args")


def _entry(head, about):
    """A key on a line of its own, and its comment below or behind it."""
    if len(head) > WIDTH:
        head = head[: WIDTH - 3] + "..."
    if not about:
        return [head]
    if len(head) < 34 and len(about) < WIDTH - 36:
        return [f"{head:34s}  {about}"]
    margin = " " * 6
    return [
        head,
        *textwrap.wrap(
            about, WIDTH, initial_indent=margin, subsequent_indent=margin
        ),
    ]


def base_of(path: str) -> str:
    """The text of the full YAML that a variant stands on."""
    seen: set[str] = set()
    while True:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
        found = re.search(r"^base:\s*(\S+)", text, re.M)
        if not found or path in seen:
            return text
        seen.add(path)
        path = os.path.join(os.path.dirname(path), found[1])


def sections(text: str) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Titles of a full YAML, and under each its keys: name, value, comment."""
    found: list[tuple[str, list[tuple[str, str, str]]]] = [("General", [])]
    above: list[str] = []
    before = ""
    for line in text.split(OBJECTS)[0].splitlines():
        comment = re.fullmatch(r"# ?(.*)", line)
        key = KEY.fullmatch(line)
        if comment and not line.startswith("##"):
            above.append(comment[1])
        elif key and not key[1].startswith("__"):
            value, _, behind = key[2].partition("# ")
            value = value.strip()
            if value.startswith("!PLACEHOLDER"):
                value = "DIR" if key[1].endswith("folder") else "VALUE"
            if above and not before:
                # A comment behind an empty line is a title, but for longer ones.
                found.append((above.pop(0).rstrip("."), []))
            about = " ".join([*above, behind.strip()]).strip()
            found[-1][1].append((key[1], value, about))
            above = []
            before = line
            continue
        elif not comment:
            above = [] if not line.strip() else above
        before = before if comment else line
    return [(title, keys) for title, keys in found if keys]
