"""A recipe's scripts and the library, as they stand in SpeechBrain.

Authors
 * The speechbrain_ext authors, 2026
"""

import re
from pathlib import Path

from upstream.layout import (
    ALSO,
    LEFT_OUT,
    OURS,
    PACKAGE,
    ROOT,
)
from upstream.source import (
    imported_modules,
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
    return files


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
    >>> "speech LLM" in package_head()
    True
    """
    return (
        '"""Speech LLMs: a frozen encoder, a projector, a frozen LLM.\n\n'
        "Training, redundancy of decoder layers, pruning and healing; the\n"
        f"recipes named SpeechLLM stand on it (``{PACKAGE}``).\n\n"
        f'Authors\n * The {OURS} authors, 2026\n"""\n'
    )
