"""A recipe's scripts and the library, as they stand in SpeechBrain.

Authors
 * The speechbrain_ext authors, 2026
"""

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
    """The text of a file of this project.

    Arguments
    ---------
    file : str
        Relative to the project.

    Returns
    -------
    str

    Example
    -------
    >>> read("upstream/__init__.py").split()[0]
    '\"\"\"Lay'
    """
    text = (ROOT / file).read_text("utf-8")
    if file in LEFT_OUT:
        text = without(text, LEFT_OUT[file])
    return text


def recipe_scripts(recipe):
    """A recipe's scripts under our names, ready to be renamed.

    Arguments
    ---------
    recipe : upstream.layout.Recipe
        Which.

    Returns
    -------
    dict
        Path relative to the recipe's folder, or "../" times two and the
        prepare script, to its text.

    Raises
    ------
    ValueError
        If train.py no longer has what is to be exchanged.

    Example
    -------
    >>> from upstream.layout import RECIPES
    >>> sorted(recipe_scripts(RECIPES[0]))
    ['measure.py', 'train.py']
    """
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
    """The names of ours that a YAML builds.

    Arguments
    ---------
    yaml_text : str
        HyperPyYAML text.

    Returns
    -------
    set of str
        Dotted names.

    Example
    -------
    >>> objects_in("lora: !new:speechbrain_ext.healing.Lora")
    {'speechbrain_ext.healing.Lora'}
    """
    return set(NAME_IN_YAML.findall(yaml_text))


def module_file(name):
    """The file of the longest module that a dotted name begins with.

    Arguments
    ---------
    name : str
        Such as ``speechbrain_ext.encoder.SpeechEncoder.from_source``.

    Returns
    -------
    str or None
        Relative to the project; None where it is no module of ours.

    Example
    -------
    >>> module_file("speechbrain_ext.healing.Lora")
    'speechbrain_ext/healing/__init__.py'
    """
    parts = name.split(".")
    while parts and parts[0] == OURS and len(parts) > 1:
        stem = "/".join(parts)
        for file in (f"{stem}.py", f"{stem}/__init__.py"):
            if (ROOT / file).is_file():
                return file
        parts.pop()
    return None


def library(names):
    """Every module of ours that some names need, to the last import.

    Arguments
    ---------
    names : iterable of str
        Dotted names that recipes import and build.

    Returns
    -------
    dict
        File relative to the project to its text, under our names.

    Example
    -------
    >>> "speechbrain_ext/blocks.py" in library({"speechbrain_ext.pruning"})
    True
    """
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
    """The ``__init__.py`` of the package that a module stands in.

    Arguments
    ---------
    file : str
        A module, relative to the project.

    Returns
    -------
    str or None
        None for the library's root, whose head is another one there, and
        for a module that stands elsewhere there.

    Example
    -------
    >>> package_of("speechbrain_ext/results/run.py")
    'speechbrain_ext/results/__init__.py'
    """
    folder = os.path.dirname(file)
    if folder == OURS or file.removeprefix(f"{OURS}/") in MOVED:
        return None
    return f"{folder}/__init__.py"


def data_files(files):
    """Files beside the library's modules that one of them opens by name.

    A ``.LICENSE`` goes with the file whose name it has.

    Arguments
    ---------
    files : dict
        As ``library`` gives it.

    Returns
    -------
    list of str
        Relative to the project.

    Example
    -------
    >>> data_files({"speechbrain_ext/a.py": "open('whisper_english_spelling.json')"})
    ['speechbrain_ext/whisper_english_spelling.LICENSE', ...]
    """
    text = "".join(files.values())
    found = set()
    for folder in {os.path.dirname(file) for file in files}:
        beside = [p for p in (ROOT / folder).glob("*.*") if p.suffix != ".py"]
        opened = {p.stem for p in beside if p.name in text}
        found |= {f"{folder}/{p.name}" for p in beside if p.stem in opened}
    return sorted(found)


def settings_of(files):
    """The settings that the library reads by name.

    Arguments
    ---------
    files : dict
        As ``library`` gives it.

    Returns
    -------
    set of str

    Example
    -------
    >>> files = {"a.py": "hparams['steps']", "hparams_rules.py": "settings['x']"}
    >>> settings_of(files)
    {'steps'}
    """
    # The rules look at a whole YAML, not at what an experiment is given.
    return set().union(
        *(
            settings_read(text)
            for file, text in files.items()
            if not file.endswith("_rules.py")
        )
    )


def is_unit_test(text, files):
    """Whether a file of tests stands on what goes there, and on that alone.

    Arguments
    ---------
    text : str
        The file's source.
    files : dict
        As ``library`` gives it.

    Returns
    -------
    bool

    Example
    -------
    >>> files = {"speechbrain_ext/prompt.py": ""}
    >>> is_unit_test("from speechbrain_ext.prompt import Prompt", files)
    True
    >>> is_unit_test("from speechbrain_ext.cli import main", files)
    False
    """
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
    """The files of tests that go there.

    Arguments
    ---------
    files : dict
        As ``library`` gives it.

    Returns
    -------
    list of str
        Names in ``tests/``.

    Example
    -------
    >>> names = {"speechbrain_ext.prompt", "speechbrain_ext.tiny_models"}
    >>> "test_prompt.py" in find_unit_tests(library(names))
    True
    """
    paths = sorted((ROOT / "tests").glob("test_*.py"))
    texts = {path.name: path.read_text("utf-8") for path in paths}
    return [name for name, text in texts.items() if is_unit_test(text, files)]


def unit_tests(names):
    """Unit tests of the library, each function with its docstring.

    Arguments
    ---------
    names : iterable of str
        Files of ``tests/``.

    Returns
    -------
    dict
        File name to its text, under our names; ``conftest.py`` among them.

    Example
    -------
    >>> sorted(unit_tests(["test_prompt.py"]))
    ['conftest.py', 'speech_llm_fixtures.py', 'test_prompt.py']
    """
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
    """The text of the package's ``__init__.py`` there.

    Returns
    -------
    str

    Example
    -------
    >>> "Speech LLM" in package_head()
    True
    """
    return (
        '"""Speech LLMs: a frozen encoder, a projector, a frozen LLM.\n\n'
        "Training, redundancy of decoder layers, pruning and healing; the\n"
        f"recipes named SpeechLLM stand on it (``{PACKAGE}``).\n\n"
        f'Authors\n * The {OURS} authors, 2026\n"""\n'
    )
