"""Every key of the recipes' YAMLs, as the comments beside them tell it.

A comment at the end of a key's line, or on the lines right above it, is the
key's; the first one after an empty line names a section. ``(stated)``,
``(reference)`` and ``(guess)`` say where a value comes from.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from speechllm.packaged import folder_of
from speechllm.report.tables import markdown_table

FIRST = "LibriSpeech/ASR"
# The last section; its objects stand apart from each other.
LAST = "Objects"
STATUS = re.compile(r"\((stated|reference|guess|derived)\) ?")
LINE = re.compile(r"( *)([a-z]\w*): *([^#]*?)(?: +# (.*))?$")
# A recipe's head stands between two bars, a fragment's above its first key.
HEAD = re.compile(r"\A# ##+\n.*?\n# ##+\n|\A(#.*\n)+(?=name)", re.S)
FRAGMENT = re.compile(r"!include:.*?((?:backbones|encoders)/[\w.-]+)$")
FROM_PAPER = {
    "stated": "the paper states it",
    "reference": "from the recipes that the paper builds on",
    "guess": "open in the paper and in its references",
    "derived": "derived from figures that the paper states",
}


@dataclass(frozen=True)
class Key:
    """A key of a YAML: what it is by default, and what is told of it."""

    name: str
    default: str
    about: str
    status: str
    section: str
    recipes: tuple[str, ...]


def read_keys(file: Path, recipe: str, above: str = "") -> Iterator[Key]:
    """The keys of one YAML, in its order, those of its fragments below."""
    section, told, new = "", [], False
    # What the keys at a depth of indentation stand below; None: an object.
    below: list[str | None] = [above]
    for line in HEAD.sub("", file.read_text("utf-8")).split("\n"):
        comment = re.match(r" *# ?(.*)", line)
        if comment and new and not above and section != LAST:
            section, new = comment[1], False
        elif comment:
            told.append(comment[1])
        elif match := LINE.match(line):
            indent, name, value, beside = match.groups()
            del below[len(indent) // 4 + 1 :]
            if below[-1] is None:
                continue
            name = below[-1] + name
            fragment = FRAGMENT.match(value)
            about = " ".join([*told, beside or ""]).strip()
            about = about or section * bool(fragment)
            yield _key(name, value, about, section, recipe)
            of_object = value.startswith(("!name", "!new", "!apply"))
            below.append(None if of_object else f"{name}.")
            if fragment:
                part = folder_of("hparams") / fragment[1]
                for key in read_keys(part, recipe, f"{name}."):
                    yield dataclasses.replace(key, section=section)
            told, new = [], False
        else:
            told, new = [], not line.strip()


def _key(name, default, about, section, recipe):
    marks = list(dict.fromkeys(STATUS.findall(about)))
    if len(marks) < 2:
        about = STATUS.sub("", about).strip()
    return Key(name, default, about, ", ".join(marks), section, (recipe,))


def all_keys() -> dict[str, Key]:
    """Every key of every recipe: as LibriSpeech has it, else the first."""
    found: dict[str, Key] = {}
    files = folder_of("recipes").glob("*/*/SpeechLLM/hparams/train.yaml")
    names = {"/".join(file.parts[-5:-3]): file for file in files}
    for recipe in sorted(names, key=lambda name: (name != FIRST, name)):
        for key in read_keys(names[recipe], recipe):
            if key.name in found:
                known = found[key.name]
                recipes = (*known.recipes, recipe)
                key = dataclasses.replace(known, recipes=recipes)
            found[key.name] = key
    if not found:
        raise FileNotFoundError(f"{folder_of('recipes')}: no recipes there")
    return found


def find_keys(name: str) -> list[Key]:
    """A key and those below it; for an unknown one says what was meant."""
    keys = all_keys()
    found = [
        key
        for key in keys.values()
        if key.name == name or key.name.startswith(f"{name}.")
    ]
    if not found:
        near = difflib.get_close_matches(name, keys, 3, 0.6)
        near = near or [key for key in keys if name and name in key][:3]
        mend = f"did you mean {' or '.join(near)}?" if near else "see them all"
        raise KeyError(f"{name}: no key of the recipes: {mend}")
    return found


def by_section(keys: dict[str, Key]) -> dict[str, list[Key]]:
    """Keys by their sections; those of other recipes alone come last."""
    found: dict[str, list[Key]] = {}
    for key in keys.values():
        alone = FIRST not in key.recipes
        title = (
            f"Only in {', '.join(key.recipes)}"
            if alone
            else key.section or "First"
        )
        found.setdefault(title, []).append(key)
    return found


def keys_page() -> str:
    """All keys as Markdown, a table for each section."""
    parts = []
    for title, keys in by_section(all_keys()).items():
        rows = [
            [f"`{k.name}`", f"`{k.default or ' '}`", k.about, k.status]
            for k in keys
        ]
        table = markdown_table(["key", "default", "what", "status"], rows)
        parts.append(f"## {STATUS.sub('', title)}\n\n{table}")
    return "\n".join(parts)
