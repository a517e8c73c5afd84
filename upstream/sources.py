"""The Python files as they stand here, ready to be renamed: nothing rewritten.

What is changed is told in ``layout.py``: the settings lines of a ``train.py``,
and the authors below each module's docstring.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from upstream.layout import (
    AUTHOR,
    OUR_TESTS,
    OURS,
    ROOT,
    SETTINGS,
    STAYS,
    Recipe,
    latest,
    slice_of,
)

# Another conftest.py stands at SpeechBrain's root: no test imports from one.
CONFTEST = '''\
"""Fixtures of the speech LLM tests, for pytest to find."""

from speech_llm_fixtures import *  # noqa: F403
'''


def folder_files(folder: str) -> dict[str, str]:
    """Every file below a folder of ours, by its path inside of it."""
    top = ROOT / folder
    return {
        path.relative_to(top).as_posix(): path.read_text("utf-8")
        for path in sorted(top.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def library() -> dict[str, str]:
    """The whole library, but for `STAYS`."""
    files = folder_files(OURS)
    # This project's own version.
    files["__init__.py"] = files["__init__.py"].partition("\n__version__")[0]
    return signed({p: text for p, text in files.items() if p not in STAYS})


def unit_tests() -> dict[str, str]:
    """The library's own tests and what they stand on."""
    return signed({**folder_files(OUR_TESTS), "conftest.py": CONFTEST})


def recipe_scripts(recipe: Recipe) -> dict[str, str]:
    """A recipe's scripts, with SpeechBrain's way to read settings."""
    scripts = {
        path.name: path.read_text("utf-8")
        for path in sorted((ROOT / recipe.ours).glob("*.py"))
        if path.name != recipe.their_prepare
    }
    train = scripts["train.py"]
    for ours, theirs in {**SETTINGS, **recipe.exchanged}.items():
        if ours not in train:
            raise ValueError(
                f"{recipe.ours}/train.py: {ours!r} is not there any more: "
                "mend SETTINGS or `exchanged` in upstream/layout.py"
            )
        train = train.replace(ours, theirs)
    scripts["train.py"] = train
    return signed({path: _plain_end(text) for path, text in scripts.items()})


def _plain_end(script: str) -> str:
    """A script that ends as SpeechBrain's do: with a traceback, if it must."""
    script = script.replace("from speechllm.command import run_command\n", "")
    return re.sub(r"run_command\(lambda: (.+)\)\n", r"\1\n", script)


def signed(files: dict[str, str]) -> dict[str, str]:
    """Python files with an Authors block in their docstrings."""
    return {
        path: with_authors(text, path) if path.endswith(".py") else text
        for path, text in files.items()
    }


def with_authors(text: str, path: str = "") -> str:
    """A module whose docstring ends as SpeechBrain's do."""
    tree = ast.parse(text)
    if ast.get_docstring(tree) is None:
        raise ValueError(f"{path}: no docstring at its head, for the authors")
    end = tree.body[0]
    lines = text.split("\n")
    said = lines[end.end_lineno - 1][: end.end_col_offset - len('"""')]
    # A long docstring's last line is empty already.
    said = f"{said}\n" if said.strip() else ""
    lines[end.end_lineno - 1] = f'{said}\nAuthors\n * {AUTHOR}\n"""'
    return "\n".join(lines)


def imported_names(text: str, late: bool = True) -> Iterator[str]:
    """Modules, and names in modules, that a source imports.

    Not late: on being imported itself, without what its functions import.
    """
    waiting: list[ast.AST] = [ast.parse(text)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif late or not isinstance(node, (ast.FunctionDef, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)


def slice_of_source(text: str) -> str:
    """The first slice with all that a source imports, late imports too."""
    ours = f"{OURS}."
    return latest(
        slice_of(name.removeprefix(ours).replace(".", "/"))
        for name in imported_names(text)
        if name.startswith(ours)
    )
