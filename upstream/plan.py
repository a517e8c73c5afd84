"""Every file that a pull request would bring, before anything is written."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from upstream.full_yaml import full_yaml, merged
from upstream.layout import (
    LIBRARY,
    OURS,
    RECIPES,
    ROOT,
    SETUP,
    TESTS,
    renamed,
    their_module,
)
from upstream.readme import closing_blocks, readme
from upstream.rows import row, setup_scripts, with_rows
from upstream.scripts import (
    TEMPLATES,
    data_files,
    find_unit_tests,
    imported_modules,
    library,
    objects_in,
    package_head,
    recipe_scripts,
    settings_of,
    unit_tests,
)

CLOSING_FROM = "recipes/LibriSpeech/ASR/transformer/README.md"
PACKAGE_DATA = '"log-config.yaml"'
AUTHOR = f"The {OURS} authors, 2026"


@dataclass(frozen=True)
class Planned:
    """One thing to write."""

    kind: str
    text: str


def variants(recipe):
    """A recipe's YAMLs that go there, by name."""
    files = sorted((ROOT / recipe.ours / "hparams").glob("*.yaml"))
    return {
        file.stem: str(file)
        for file in files
        if file.stem != "train" and not file.stem.startswith("mini")
    }


class Plan:
    """The files, by their path in the checkout."""

    def __init__(self, committed, scores=None, author=AUTHOR):
        self.committed = committed
        self.scores = scores or {}
        self.author = author
        self.files = {}
        self.yamls = {}
        scripts = {r.dataset: recipe_scripts(r) for r in RECIPES}
        self.library = library(self._names(scripts))
        self.read = settings_of(self.library)
        self._add_library()
        for recipe in RECIPES:
            self._add_recipe(recipe, scripts[recipe.dataset])
        self._add_rows()
        self._add_edits()

    def add(self, path, text, kind="file"):
        """Plan one file, under the names there."""
        if kind != "link":
            text = renamed(text.replace(AUTHOR, self.author))
            text = text.rstrip("\n") + "\n"
        self.files[path] = Planned(kind, text)

    def _names(self, scripts):
        """What recipes and YAMLs need of the library (set of str)."""
        names = set()
        for recipe in RECIPES:
            texts = list(scripts[recipe.dataset].values())
            if recipe.prepare:
                texts.append((ROOT / recipe.prepare).read_text("utf-8"))
            for text in texts:
                names |= imported_modules(text)
            for file in variants(recipe).values():
                names |= objects_in(merged(file))
        return names

    def _add_library(self):
        """The modules, their data and their tests."""
        for file, text in self.library.items():
            self.add(their_module(file), text)
        self.add(f"{LIBRARY}/__init__.py", package_head())
        for file in data_files(self.library):
            text = (ROOT / file).read_text("utf-8")
            self.files[their_module(file)] = Planned("file", text)
        for name, text in unit_tests(find_unit_tests(self.library)).items():
            self.add(f"{TESTS}/{name}", text)

    def _add_recipe(self, recipe, scripts):
        """Scripts, YAMLs, README, requirements and prepare script."""
        for name, text in scripts.items():
            self.add(f"{recipe.theirs}/{name}", text)
        yamls = {
            name: full_yaml(file, self.read, recipe.dropped)
            for name, file in variants(recipe).items()
        }
        self.yamls[recipe.dataset] = yamls
        for name, text in yamls.items():
            self.add(f"{recipe.theirs}/hparams/{name}.yaml", text)
        needs = ROOT / RECIPES[0].ours / "extra_requirements.txt"
        own = ROOT / recipe.ours / "extra_requirements.txt"
        text = (own if own.is_file() else needs).read_text("utf-8")
        self.add(f"{recipe.theirs}/extra_requirements.txt", text)
        tail = self.committed(CLOSING_FROM)
        tail = closing_blocks(tail) if tail else ""
        text = readme(recipe, yamls, self.scores, tail)
        self.add(f"{recipe.theirs}/README.md", text)
        top = f"recipes/{recipe.dataset}/{recipe.their_prepare}"
        if recipe.prepare:
            self.add(top, (ROOT / recipe.prepare).read_text("utf-8"))
        link = os.path.relpath(top, recipe.theirs)
        self.add(f"{recipe.theirs}/{recipe.their_prepare}", link, "link")

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
        for recipe in RECIPES:
            path = f"tests/recipes/{recipe.csv}.csv"
            before = self.files.get(path)
            before = before.text if before else self.committed(path)
            text = with_rows(before, self.rows(recipe), recipe.theirs)
            self.files[path] = Planned("file", text)
            made = setup_scripts(recipe, self.yamls[recipe.dataset])
            for script, (kind, said) in made.items():
                self.add(script, said, kind)
        text = (TEMPLATES / "setup.py").read_text("utf-8")
        self.add(f"{SETUP}/speech_llm.py", text)

    def _add_edits(self):
        """SpeechBrain's list of data files, with ours in it."""
        text = self.committed("pyproject.toml")
        paths = [their_module(file) for file in data_files(self.library)]
        paths = [path.removeprefix("speechbrain/") for path in paths]
        ours = "".join(f', "{path}"' for path in paths)
        if text and ours not in text:
            if PACKAGE_DATA not in text:
                raise ValueError(
                    "pyproject.toml: no list of package data that ends with "
                    f"{PACKAGE_DATA}: mend PACKAGE_DATA in upstream/plan.py"
                )
            text = text.replace(PACKAGE_DATA, PACKAGE_DATA + ours)
        if text:
            self.files["pyproject.toml"] = Planned("file", text)

    def format(self, settings):
        """Sort imports and lay out every Python file as SpeechBrain does."""
        names = [name for name in self.files if name.endswith(".py")]
        names = [name for name in names if self.files[name].kind != "link"]
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
