"""What SpeechBrain's checks will say of our files, told without a checkout."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from speechbrain.utils.run_opts import RunOptions

from speechbrain_ext.training.faults import ConfigError
from upstream import __main__ as command
from upstream.checkout import Checkout, CheckoutError
from upstream.full_yaml import BLOCK, RUN_OPTIONS, full_yaml, without_key
from upstream.layout import (
    LIBRARY,
    OURS,
    PACKAGE,
    RECIPES,
    TESTS,
    renamed,
)
from upstream.plan import AUTHOR, Plan, variants
from upstream.rows import COLUMNS, with_rows
from upstream.scripts import data_files, is_unit_test
from upstream.source import settings_read, with_functions, without

CLOSING = "# **About SpeechBrain**\nabout\n\n# **Citing SpeechBrain**\ncite\n"
THEIRS = {
    "recipes/LibriSpeech/ASR/transformer/README.md": f"# Results\n{CLOSING}",
    "tests/recipes/LibriSpeech.csv": ",".join(COLUMNS) + '\nASR,"a, b",,\n',
    "pyproject.toml": 'speechbrain = ["version.txt", "log-config.yaml"]\n',
    # Of SpeechBrain's own, what is dangerous to us.
    ".gitignore": "**/results/\nbuild/\nlib/\nparts/\n*.log\n",
}


@pytest.fixture(scope="module")
def plan():
    """The plan for a checkout with few files; read only."""
    return Plan(lambda path: THEIRS.get(path, ""))


def cases():
    """Every YAML that goes there, with its recipe."""
    return [
        pytest.param(recipe, name, id=f"{recipe.dataset}-{name}")
        for recipe in RECIPES
        for name in variants(recipe)
    ]


def text_of(plan, path):
    return plan.files[path].text


def unused_keys(yaml_text, script):
    """Top-level keys that SpeechBrain's textual check would call unused.

    A key counts as used where a later line refers to it, where it is a run
    option, a function called at once, or stands by name in the script.
    """
    unused = []
    lines = [x for x in yaml_text.split("\n") if not x.startswith("#")]
    for number, line in enumerate(lines):
        found = re.match(r"([^\s:#]+):", line)
        if not found or "!apply" in line:
            continue
        key = found.group(1)
        referred = any(
            "!ref" in later and re.search(rf"<{re.escape(key)}[>\[]", later)
            for later in lines[number + 1 :]
        )
        named = (f'["{key}"]', f"hparams.{key}", f"modules.{key}")
        named += (f'attr(self.hparams, "{key}', f'hparams.get("{key}"')
        if referred or any(name in script for name in named):
            continue
        if key not in RunOptions().as_dict():
            unused.append(key)
    return unused


# ------------------------------------------------------------------- YAMLs
@pytest.mark.parametrize("recipe, name", cases())
def test_every_key_is_used_by_script_or_yaml(plan, recipe, name):
    text = text_of(plan, f"{recipe.theirs}/hparams/{name}.yaml")
    script = text_of(plan, f"{recipe.theirs}/train.py")
    assert unused_keys(text, script) == []
    assert unused_keys(f"idle: 1\n{text}", script) == ["idle"]


@pytest.mark.parametrize("recipe, name", cases())
def test_what_the_experiment_is_given_is_read(plan, recipe, name):
    text = text_of(plan, f"{recipe.theirs}/hparams/{name}.yaml")
    block = text.split(f"\n{BLOCK}:\n")[1]
    given = re.findall(r"^    (\w+): !ref <\1>$", block, re.M)
    assert len(given) == len(block.strip().split("\n"))
    assert set(given) - plan.read - set(RUN_OPTIONS) == set()
    assert set(RUN_OPTIONS) <= set(RunOptions().as_dict())


@pytest.mark.parametrize("recipe, name", cases())
def test_yamls_are_whole_and_unresolved(plan, recipe, name):
    text = text_of(plan, f"{recipe.theirs}/hparams/{name}.yaml")
    assert "!include" not in text and "\nbase:" not in text
    assert "output_folder: !ref <results_folder>/<run_name>" in text
    assert text.count("!PLACEHOLDER") == 1
    assert text.startswith("# ####") and "# Authors:" in text
    assert f"hparams/{name}.yaml" in text  # its own command, not its base's
    keys = [key.value for key, _ in yaml.compose(text).value]
    assert len(keys) == len(set(keys))
    assert f"!name:{PACKAGE}.decoder.Decoder.from_source" in text
    assert not set(recipe.dropped) & set(keys)


def test_a_variant_that_does_not_fit_is_refused(tmp_path):
    (tmp_path / "train.yaml").write_text("steps: 1\n")
    (tmp_path / "two.yaml").write_text("base: train.yaml\nstep: 2\n")
    with pytest.raises(ConfigError, match="did you mean steps"):
        full_yaml(str(tmp_path / "two.yaml"), set())
    with pytest.raises(ValueError, match="step"):
        without_key("steps: 1\n", "step")


# -------------------------------------------------------------------- rows
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.dataset)
def test_every_yaml_has_its_row_and_every_row_its_files(plan, recipe):
    rows = plan.rows(recipe)
    planned = {
        path
        for path in plan.files
        if path.startswith(f"{recipe.theirs}/") and path.endswith(".yaml")
    }
    assert {row["Hparam_file"] for row in rows} == planned and planned
    folder = f"tests/recipes/setup/{recipe.theirs.replace('/', '_')}_train"
    for row in rows:
        for column in COLUMNS[2:6]:
            assert row[column] in plan.files, column
        name = Path(row["Hparam_file"]).stem
        assert plan.files[f"{folder}/hparams_{name}"].text
        assert "--grad_accumulation_factor=1" in row["test_debug_flags"]
        assert "file_exists=[" in row["test_debug_checks"]
        assert "performance_check=[" in row["test_debug_checks"]
    table = text_of(plan, f"tests/recipes/{recipe.csv}.csv")
    assert all(row["Hparam_file"] in table for row in rows)


def test_other_rows_stay_and_ours_are_not_doubled(plan):
    once = text_of(plan, "tests/recipes/LibriSpeech.csv")
    assert once.startswith(THEIRS["tests/recipes/LibriSpeech.csv"])
    again = once
    for recipe in RECIPES:
        if recipe.csv == "LibriSpeech":
            again = with_rows(again, plan.rows(recipe), recipe.theirs)
    assert sorted(again.split("\n")) == sorted(once.split("\n"))


# ----------------------------------------------------------------- sources
def test_what_is_taken_from_the_package_stands_in_it(plan):
    text = "from speechbrain_ext import results\nresults.load_run(1)\n"
    named = f"from {PACKAGE} import run_results as results\n"
    assert renamed(text) == f"{named}results.load_run(1)\n"
    for path, planned in plan.files.items():
        for names in re.findall(rf"from {PACKAGE} import (.+)", planned.text):
            for name in names.split(","):
                stem = f"{LIBRARY}/{name.split(' as ')[0].strip()}"
                found = {f"{stem}.py", f"{stem}/__init__.py"}
                assert found & set(plan.files), f"{path}: {name}"


def test_nothing_of_ours_is_left_behind(plan):
    for path, planned in plan.files.items():
        text = planned.text.replace(AUTHOR, "")
        assert OURS not in text, path
        assert OURS not in path


def test_every_import_finds_its_file(plan):
    for path, planned in plan.files.items():
        if not path.endswith(".py") or planned.kind == "link":
            continue
        for node in ast.walk(ast.parse(planned.text)):
            if isinstance(node, ast.ImportFrom) and node.module:
                if node.module.startswith(PACKAGE):
                    stem = node.module.replace(".", "/")
                    found = {f"{stem}.py", f"{stem}/__init__.py"}
                    assert found & set(plan.files), f"{path}: {node.module}"


def test_every_package_has_its_head(plan):
    modules = [p for p in plan.files if p.startswith(f"{LIBRARY}/")]
    folders = {str(Path(p).parent) for p in modules if p.endswith(".py")}
    assert len(folders) > 3
    assert {f"{folder}/__init__.py" for folder in folders} <= set(plan.files)


def test_tests_of_what_goes_there_go_too(plan):
    there = {Path(p).name for p in plan.files if p.startswith(TESTS)}
    for part in ("encoder", "features", "prompt", "results", "scoring"):
        assert f"test_{part}.py" in there
    # The command line and the recipes' scripts stay here.
    assert not there & {"test_cli.py", "test_recipe_librispeech.py"}


@pytest.mark.parametrize(
    "text",
    [
        "import os",
        "from speechllm.cli import main",
        "from speechbrain_ext.model.prompt import Prompt\nimport exported",
        "from speechbrain_ext.model.prompt import Prompt\nfrom golden import world",
        "from speechbrain_ext.model.prompt import Prompt\nprint(__file__)",
        "from speechbrain_ext.model.prompt import Prompt\ndef test_a(settings): pass",
    ],
)
def test_a_test_of_more_than_the_library_stays(plan, text):
    assert not is_unit_test(text, plan.library)
    fine = "from speechbrain_ext.model.prompt import Prompt"
    assert is_unit_test(fine, plan.library)


def test_data_go_with_the_module_that_opens_them():
    opens = {f"{OURS}/a.py": "open('whisper_english_spelling.json')"}
    assert data_files(opens) == [
        f"{OURS}/whisper_english_spelling.LICENSE",
        f"{OURS}/whisper_english_spelling.json",
    ]
    assert data_files({f"{OURS}/a.py": "open('other.json')"}) == []


def used_elsewhere(plan):
    """Names of the library that another file imports or a YAML builds."""
    names = set()
    for path, planned in plan.files.items():
        if path.endswith(".yaml"):
            for found in re.findall(rf"!\w+:{PACKAGE}\.([\w.]+)", planned.text):
                module, name, *_ = found.split(".")
                names.add((f"{LIBRARY}/{module}.py", name))
        if not path.endswith(".py") or planned.kind == "link":
            continue
        if path.startswith(TESTS):
            continue
        for node in ast.walk(ast.parse(planned.text)):
            if isinstance(node, ast.ImportFrom) and node.module:
                file = f"{node.module.replace('.', '/')}.py"
                names |= {(file, alias.name) for alias in node.names}
    return names


def wanting(node):
    """What a public function's or class's docstring lacks (list of str)."""
    said = ast.get_docstring(node) or ""
    needed = ["Example"]
    if isinstance(node, ast.FunctionDef):
        arguments = node.args.args + node.args.kwonlyargs
        gives = any(
            isinstance(n, ast.Return) and n.value is not None
            for n in ast.walk(node)
        )
        needed += ["Arguments"] * bool(arguments) + ["Returns"] * gives
    return [name for name in needed if f"{name}\n-----" not in said]


def test_every_public_function_says_what_it_takes_gives_and_does(plan):
    public, faults = used_elsewhere(plan), []
    seen = 0
    for path, planned in plan.files.items():
        if not path.startswith(LIBRARY) or not path.endswith(".py"):
            continue
        for node in ast.parse(planned.text).body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                continue
            assert ast.get_docstring(node), f"{path}: {node.name}"
            if (path, node.name) in public and node.name[0] != "_":
                seen += 1
                lacks = wanting(node)
                if lacks:
                    faults.append(f"{path}: {node.name}: {', '.join(lacks)}")
    assert seen > 100
    assert not faults, "\n".join(faults)


def textual_faults(text):
    """Functions and classes that SpeechBrain's textual check calls bare.

    It goes by lines, texts of programs inside of strings included, and passes
    over lines with ``>>>`` or ``...``, first lines of docstrings among them.
    """
    faults, waiting = [], None
    for line in (line.strip() for line in text.split("\n")):
        if not line or line[0] == "#" or ">>>" in line or "..." in line:
            continue
        if waiting and not line.startswith(('"', 'r"')):
            faults.append(waiting)
        found = re.match(r"def ([^_].*)\(.*\):|class (.*):", line)
        waiting = found and line
    return faults


def test_docstrings_are_where_a_textual_check_looks(plan):
    seen = 0
    for path, planned in plan.files.items():
        if path.startswith((LIBRARY, TESTS)) and path.endswith(".py"):
            seen += 1
            assert textual_faults(planned.text) == [], path
    assert seen > 50
    said = 'def f(a):\n    """Of shape ``[B, ...]``."""\n    return a'
    assert textual_faults(said) == ["def f(a):"]
    assert textual_faults(said.replace(", ...", "")) == []


def test_wanting_sees_what_is_missing():
    bare = ast.parse('def f(a):\n    """Says.\n    """\n    return a').body[0]
    assert wanting(bare) == ["Example", "Arguments", "Returns"]


def test_settings_read_sees_every_way_of_reading():
    text = "hparams['a']; self.hparams.b; hparams.get('c'); other['d']"
    assert settings_read(text) - {"get"} == {"a", "b", "c"}
    assert settings_read("run.configuration['e']") == {"e"}


def test_a_template_without_its_function_is_refused():
    with pytest.raises(ValueError, match="no function g"):
        with_functions("def f():\n    pass", "def g():\n    pass")
    with pytest.raises(ValueError, match="no g"):
        without("def f():\n    pass", {"g"})


# ----------------------------------------------------------------- READMEs
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.dataset)
def test_readme_names_what_is_there(plan, recipe):
    text = text_of(plan, f"{recipe.theirs}/README.md")
    there = {f"{name}.yaml" for name in plan.yamls[recipe.dataset]}
    assert set(re.findall(r"[\w.-]+\.yaml", text)) == there
    assert text.endswith(CLOSING) and "@" not in text.split(CLOSING)[0]
    assert "| Release | hyperparams file |" in text


def test_measured_scores_stand_in_readme_and_row():
    scores = {"test-clean": 2.013, "test-other": 4.771}
    run = {"date": "2026-07-01", "scores": scores}
    plan = Plan(lambda path: THEIRS.get(path, ""), {"qwen7b": run})
    text = text_of(plan, f"{RECIPES[0].theirs}/README.md")
    assert "| 2026-07-01 | qwen7b.yaml | 0 | 2.01 | 4.77 |" in text
    assert "| - | qwen7b_prune.yaml | 8 | - | - |" in text
    rows = {Path(r["Hparam_file"]).stem: r for r in plan.rows(RECIPES[0])}
    assert rows["qwen7b"]["performance"] == "test-clean=2.01 test-other=4.77"


# ---------------------------------------------------------------- checkout
@pytest.fixture
def checkout(tmp_path):
    """A repository with the few of SpeechBrain's files that matter here."""
    folder = tmp_path / "speechbrain"
    for path, text in {**THEIRS, "tests/consistency/x.py": ""}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], [*name, "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def run(checkout, *words):
    return command.main([str(checkout), "--only", "nothing", *words])


def test_second_run_changes_nothing(checkout, capsys, tmp_path):
    work = f"--work={tmp_path / 'work'}"
    assert run(checkout, "--dry-run") == 0
    listed = capsys.readouterr().out
    assert f"new     {RECIPES[0].theirs}/train.py" in listed
    assert not (checkout / RECIPES[0].theirs).exists()
    assert run(checkout, work) == 0
    link = checkout / RECIPES[0].theirs / "librispeech_prepare.py"
    assert link.is_symlink()
    capsys.readouterr()
    assert run(checkout, work) == 0
    told = capsys.readouterr().out
    assert "new" not in told.split("(")[0] and "changed" not in told
    # What the plan no longer has goes, and only that.
    there = Checkout(checkout)
    there.write({"a.txt": next(iter(Plan(there.committed).files.values()))})
    assert there.changed() == []
    assert not link.is_symlink()
    for path, text in THEIRS.items():
        assert (checkout / path).read_text() == text


def test_a_persons_changes_are_not_mixed_with_ours(checkout, capsys, tmp_path):
    (checkout / "pyproject.toml").write_text("# mine\n")
    assert run(checkout) == 2
    assert "has changes of its own (pyproject.toml)" in capsys.readouterr().err
    subprocess.run(["git", "checkout", "-q", "."], cwd=checkout, check=True)
    assert run(checkout, f"--work={tmp_path / 'work'}") == 0
    edited = checkout / RECIPES[0].theirs / "train.py"
    edited.write_text(edited.read_text() + "# mine\n")
    assert run(checkout) == 2
    assert "SpeechLLM/train.py" in capsys.readouterr().err


def test_what_git_would_pass_over_is_refused(checkout, capsys):
    (checkout / ".gitignore").write_text("**/features/\n")
    subprocess.run(["git", "add", "."], cwd=checkout, check=True)
    commit = "-c user.name=a -c user.email=a@b commit -qm y".split()
    subprocess.run(["git", *commit], cwd=checkout, check=True)
    assert run(checkout, "--dry-run") == 2
    told = capsys.readouterr().err
    assert f"passes over {LIBRARY}/features/" in told and "MOVED" in told


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(CheckoutError, match="no checkout of SpeechBrain"):
        Checkout(tmp_path)
