"""Every file that a pull request would bring, before anything is written."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from upstream.full_yaml import full_yaml
from upstream.layout import (
    AUTHOR,
    LIBRARY,
    ORDER,
    RECIPES,
    ROOT,
    SETUP,
    TESTS,
    Recipe,
    renamed,
    slice_of,
)
from upstream.readme import TEMPLATES, closing_blocks, readme
from upstream.rows import row, setup_scripts, with_rows
from upstream.sources import (
    library,
    recipe_scripts,
    slice_of_source,
    unit_tests,
    with_authors,
)

CLOSING_FROM = "recipes/LibriSpeech/ASR/transformer/README.md"
PACKAGE_DATA = '"log-config.yaml"'


@dataclass(frozen=True)
class Planned:
    """One thing to write."""

    kind: str
    text: str


def variants(recipe: Recipe) -> dict[str, str]:
    """A recipe's YAMLs that go there, by name."""
    files = sorted((ROOT / recipe.ours / "hparams").glob("*.yaml"))
    return {
        file.stem: str(file)
        for file in files
        if file.stem != "train" and not file.stem.startswith("mini")
    }


class Plan:
    """The files by their path in the checkout, up to a slice or all."""

    def __init__(self, committed, scores=None, author=AUTHOR, last=ORDER[-1]):
        self.committed = committed
        self.scores = scores or {}
        self.author = author
        self.slices = ORDER[: ORDER.index(last) + 1]
        self.recipes = [r for r in RECIPES if r.slice in self.slices]
        self.files: dict[str, Planned] = {}
        self.yamls: dict[str, dict[str, str]] = {}
        self._add_library()
        for recipe in self.recipes:
            self._add_recipe(recipe)
        self._add_rows()
        self._add_edits()

    def add(self, path, text, *parts, kind="file"):
        """Plan one file, under the names there, if all its slices are in."""
        if not {*parts} <= {*self.slices}:
            return
        if kind != "link":
            text = renamed(text, self.author).rstrip("\n") + "\n"
        self.files[path] = Planned(kind, text)

    def _add_library(self):
        """The modules, their data and their tests."""
        for path, text in library().items():
            self.add(f"{LIBRARY}/{path}", text, slice_of(path))
        for path, text in unit_tests().items():
            self.add(f"{TESTS}/{path}", text, slice_of_source(text))

    def _add_recipe(self, recipe):
        """Scripts, YAMLs, README, requirements and prepare script."""
        there, part = recipe.theirs, recipe.slice
        for name, text in recipe_scripts(recipe).items():
            self.add(f"{there}/{name}", text, part, slice_of_source(text))
        checked = slice_of("training/settings") in self.slices
        yamls = {
            name: full_yaml(file, recipe.dropped, checked)
            for name, file in variants(recipe).items()
            if recipe.slice_of(name) in self.slices
        }
        self.yamls[recipe.dataset] = yamls
        for name, text in yamls.items():
            self.add(f"{there}/hparams/{name}.yaml", text, part)
        needs = ROOT / recipe.ours / "extra_requirements.txt"
        self.add(f"{there}/{needs.name}", needs.read_text("utf-8"), part)
        tail = self.committed(CLOSING_FROM)
        tail = closing_blocks(tail) if tail else ""
        measured = f"{there}/measure.py" in self.files
        text = readme(recipe, yamls, self.scores, tail, measured)
        self.add(f"{there}/README.md", text, part)
        top = f"recipes/{recipe.dataset}/{recipe.their_prepare}"
        if recipe.prepare:
            text = (ROOT / recipe.prepare).read_text("utf-8")
            self.add(top, with_authors(text, recipe.prepare), part)
        link = os.path.relpath(top, there)
        self.add(f"{there}/{recipe.their_prepare}", link, part, kind="link")

    def named(self, ending):
        """Files of a kind, links left out (list of str)."""
        return sorted(
            path
            for path, planned in self.files.items()
            if path.endswith(ending) and planned.kind != "link"
        )

    def rows(self, recipe):
        """A recipe's rows of the recipe tests (list of dict)."""
        rows = []
        for name, text in self.yamls[recipe.dataset].items():
            run = self.scores.get(name, {}).get("scores", {})
            performance = " ".join(f"{k}={v:.2f}" for k, v in run.items())
            rows.append(row(recipe, name, text, performance))
        return rows

    def _add_rows(self):
        """The tables of recipe tests, and what runs before each row."""
        for recipe in self.recipes:
            path = f"tests/recipes/{recipe.csv}.csv"
            before = self.files.get(path)
            before = before.text if before else self.committed(path)
            text = with_rows(before, self.rows(recipe), recipe.theirs)
            # Not renamed: other recipes' rows stand in it.
            self.files[path] = Planned("file", text)
            made = setup_scripts(recipe, self.yamls[recipe.dataset])
            for script, (kind, said) in made.items():
                self.add(script, said, recipe.slice, kind=kind)
        text = (TEMPLATES / "setup.py").read_text("utf-8")
        self.add(f"{SETUP}/speech_llm.py", text, ORDER[0])

    def _add_edits(self):
        """SpeechBrain's list of data files, with ours in it."""
        text = self.committed("pyproject.toml")
        if not text:
            return
        if PACKAGE_DATA not in text:
            raise ValueError(
                "pyproject.toml: no list of package data that ends with "
                f"{PACKAGE_DATA}: mend PACKAGE_DATA in upstream/plan.py"
            )
        paths = [
            path.removeprefix("speechbrain/")
            for path in self.files
            if path.startswith(f"{LIBRARY}/") and not path.endswith(".py")
        ]
        added = "".join(f', "{path}"' for path in paths if path not in text)
        text = text.replace(PACKAGE_DATA, PACKAGE_DATA + added)
        self.files["pyproject.toml"] = Planned("file", text)

    def format(self, settings: str):
        """Sort imports and lay out every Python file as SpeechBrain does.

        The prefix there is longer: lines break, and imports sort, otherwise.
        """
        names = self.named(".py")
        with tempfile.TemporaryDirectory() as folder:
            top = Path(folder)
            (top / "pyproject.toml").write_text(settings, "utf-8")
            # isort asks whether a name is a module that stands here.
            (top / "speechbrain").mkdir()
            for name in names:
                (top / name).parent.mkdir(parents=True, exist_ok=True)
                (top / name).write_text(self.files[name].text, "utf-8")
            ruff = [sys.executable, "-m", "ruff"]
            for words in (["check", "--fix", "--exit-zero"], ["format"]):
                subprocess.run(
                    [*ruff, *words, "--quiet", "--no-cache", *names],
                    cwd=top,
                    check=True,
                )
            for name in names:
                text = (top / name).read_text("utf-8")
                self.files[name] = Planned(self.files[name].kind, text)
