"""The pages beside docs/: made ones, notebooks, and links as a site has them.

Pages of the repository (recipes, workflow) are pages of the site under their
own paths. A link to a file that is no page becomes its text. ``<!-- generated:
NAME -->`` is replaced by what `GENERATED` makes.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import memory  # noqa: E402

from speechllm.cli import cli  # noqa: E402
from speechllm.keys import keys_page  # noqa: E402

# Beside docs/: under these paths here and on the site.
PAGES = [
    "recipes/*/*/SpeechLLM/README.md",
    "recipes/*/SpeechLLM/README.md",
    "workflow/README.md",
    "benchmarks/README.md",
    "CONTRIBUTING.md",
]
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
CODE = re.compile(r"(^ *```.*?^ *```|`[^`\n]*`)", re.S | re.M)
MARK = re.compile(r"<!-- generated: (\w+) -->")


def pages() -> list[str]:
    """The repository's pages beside docs/."""
    found = [path for pattern in PAGES for path in ROOT.glob(pattern)]
    return sorted(str(path.relative_to(ROOT)) for path in found)


# ----------------------------------------------------------------------------
# What is made


def commands(
    command: click.Command, name: str, above: click.Context | None = None
) -> Iterator[tuple[str, str]]:
    """Each command's name and help, groups' own commands after them."""
    context = click.Context(command, above, name, max_content_width=78)
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for below, one in command.commands.items():
            yield from commands(one, below, context)


def commands_page() -> str:
    """The help of every command."""
    return "\n".join(
        f"## {path}\n\n```text\n{told}\n```\n"
        for path, told in commands(cli, "speechllm")
    )


def not_run() -> str:
    """What README says of what was not run."""
    parts = (ROOT / "README.md").read_text("utf-8").split("\n\n")
    return next(part for part in parts if part.startswith("**Not run yet**"))


GENERATED = {
    "not_run": not_run,
    "keys": keys_page,
    "commands": commands_page,
    "memory": memory.tables,
}


def notebook_page(path: Path) -> str:
    """A notebook as Markdown, with what its cells printed."""
    parts = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell["outputs"]:
            printed = "".join(output["text"]).rstrip("\n")
            parts.append(f"```text\n{printed}\n```")
    own = f"[{path.name}]({path.name})"
    return "\n\n".join([*parts, f"The notebook: {own}\n"])


# ----------------------------------------------------------------------------
# Links


def place(here: str, target: str, known: set[str]) -> str | None:
    """The page that a link of a page leads to; None: a file that is none.

    Paths are of the repository; what is not there at all stays as it is.
    """
    there = os.path.normpath(os.path.join(os.path.dirname(here), target))
    if (ROOT / there).is_dir():
        there = f"{there}/README.md"
    if there == "README.md":
        there = "docs/index.md"
    if there.startswith("docs/tutorials/"):
        there = re.sub(r"\.ipynb$", ".md", there)
    if there.startswith("docs/") or there in known:
        return there.removeprefix("docs/")
    return None if (ROOT / there).exists() else target


def relinked(text: str, here: str, uri: str, known: set[str]) -> str:
    """A page's text with links as the site has them."""

    def relink(match):
        sign, told, target = match.groups()
        path, mark, anchor = target.partition("#")
        if not path or re.match(r"\w+:", target):
            return match[0]
        found = place(here, path, known)
        if found is None:
            return told
        if found != path:
            found = os.path.relpath(found, os.path.dirname(uri) or ".")
        return f"{sign}[{told}]({found}{mark}{anchor})"

    parts = CODE.split(text)
    parts[::2] = [LINK.sub(relink, part) for part in parts[::2]]
    return "".join(parts)
