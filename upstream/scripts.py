"""A recipe's scripts and the library, as they stand in SpeechBrain."""

import os
import re
from pathlib import Path

from upstream.layout import (
    ALSO,
    LEFT_OUT,
    MOVED,
    OURS,
    PACKAGE,
    ROOT,
)
from upstream.source import (
    imported_modules,
    names_wanted,
    settings_read,
    with_docstrings,
    with_functions,
    without,
)

TEMPLATES = Path(__file__).parent / "templates"
NAME_IN_YAML = re.compile(rf"!\w+:({OURS}[\w.]+)")


def read(file):
    """The text of a file of this project."""
    text = (ROOT / file).read_text("utf-8")
    if file in LEFT_OUT:
        text = without(text, LEFT_OUT[file])
    return text


def recipe_scripts(recipe):
    """A recipe's scripts under our names, ready to be renamed."""
    scripts = {}
    for path in sorted((ROOT / recipe.ours).glob("*.py")):
        if not path.is_symlink():
            scripts[path.name] = path.read_text("utf-8")
    train = scripts["train.py"]
    for ours, theirs in recipe.exchanged.items():
        if ours not in train:
            raise ValueError(
                f"{recipe.ours}/train.py: {ours!r} is not there any more: "
                "mend `exchanged` in upstream/layout.py"
            )
        train = train.replace(ours, theirs)
    for name in filter(None, [recipe.template, "experiment.py"]):
        train = with_functions(train, (TEMPLATES / name).read_text("utf-8"))
    scripts["train.py"] = train
    return scripts


def objects_in(yaml_text):
    """The names of ours that a YAML builds."""
    return set(NAME_IN_YAML.findall(yaml_text))


def module_file(name):
    """The file of the longest module that a dotted name begins with."""
    parts = name.split(".")
    while parts and parts[0] == OURS and len(parts) > 1:
        stem = "/".join(parts)
        for file in (f"{stem}.py", f"{stem}/__init__.py"):
            if (ROOT / file).is_file():
                return file
        parts.pop()
    return None


def library(names):
    """Every module of ours that some names need, to the last import."""
    files = {}
    waiting = [module_file(name) for name in sorted(names)] + ALSO
    while waiting:
        file = waiting.pop()
        if file is None or file in files:
            continue
        files[file] = with_docstrings(read(file))
        for name in sorted(imported_modules(files[file])):
            waiting.append(module_file(name))
        waiting.append(package_of(file))
    return files


def package_of(file):
    """The ``__init__.py`` of the package that a module stands in."""
    folder = os.path.dirname(file)
    if folder == OURS or file.removeprefix(f"{OURS}/") in MOVED:
        return None
    return f"{folder}/__init__.py"


def data_files(files):
    """Files beside the library's modules that one of them opens by name."""
    text = "".join(files.values())
    found = set()
    for folder in {os.path.dirname(file) for file in files}:
        beside = [p for p in (ROOT / folder).glob("*.*") if p.suffix != ".py"]
        opened = {p.stem for p in beside if p.name in text}
        found |= {f"{folder}/{p.name}" for p in beside if p.stem in opened}
    return sorted(found)


def settings_of(files):
    """The settings that the library reads by name."""
    # The rules look at a whole YAML, not at what an experiment is given.
    return set().union(
        *(
            settings_read(text)
            for file, text in files.items()
            if not file.endswith("_rules.py")
        )
    )


def is_unit_test(text, files):
    """Whether a file of tests stands on what goes there, and on that alone."""
    names = imported_modules(text)
    ours = {module_file(name) for name in names} - {None}
    # A helper beside it, or the project's own folders.
    beside = {path.stem for path in (ROOT / "tests").iterdir()}
    beside |= {path.name for path in ROOT.iterdir()} - {OURS}
    tops = {name.split(".")[0] for name in names} - {"conftest"}
    looks_around = "__file__" in text or beside & tops
    stays = names_wanted(text) & LEFT_OUT["tests/conftest.py"]
    return bool(ours) and ours <= set(files) and not (looks_around or stays)


def find_unit_tests(files):
    """The files of tests that go there."""
    paths = sorted((ROOT / "tests").glob("test_*.py"))
    texts = {path.name: path.read_text("utf-8") for path in paths}
    return [name for name, text in texts.items() if is_unit_test(text, files)]


def unit_tests(names):
    """Unit tests of the library, each function with its docstring."""
    fixtures = "speech_llm_fixtures"
    texts = {f"{fixtures}.py": with_docstrings(read("tests/conftest.py"))}
    texts["conftest.py"] = (
        '"""Fixtures of the speech LLM tests, for pytest to find.\n\n'
        f'Authors\n * The {OURS} authors, 2026\n"""\n\n'
        f"from {fixtures} import *  # noqa: F403\n"
    )
    for name in names:
        text = with_docstrings(read(f"tests/{name}"))
        # Another conftest.py stands at SpeechBrain's root.
        texts[name] = re.sub(
            r"from conftest import", f"from {fixtures} import", text
        )
    return texts


def package_head():
    """The text of the package's ``__init__.py`` there."""
    return (
        '"""Speech LLMs: a frozen encoder, a projector, a frozen LLM.\n\n'
        "Training, redundancy of decoder layers, pruning and healing; the\n"
        f"recipes named SpeechLLM stand on it (``{PACKAGE}``).\n\n"
        f'Authors\n * The {OURS} authors, 2026\n"""\n'
    )
