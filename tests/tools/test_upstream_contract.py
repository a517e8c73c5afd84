"""What SpeechBrain's checks will say of our files, told without a checkout."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.run_opts import RunOptions

from speechbrain_ext.training.faults import ConfigError
from tools import house
from upstream import __main__ as command
from upstream.checkout import Checkout, CheckoutError
from upstream.full_yaml import CHECK, full_yaml, with_check, without_key
from upstream.layout import (
    AUTHOR,
    LIBRARY,
    ORDER,
    OURS,
    PACKAGE,
    RECIPES,
    ROOT,
    SETTINGS,
    SLICES,
    STAYS,
    TESTS,
    latest,
    slice_of,
)
from upstream.plan import Plan, variants
from upstream.rows import COLUMNS, with_rows
from upstream.sources import (
    imported_names,
    recipe_scripts,
    slice_of_source,
    with_authors,
)

# Lines of code of the first pull request's Python, tests apart: what the paper
# needs and no more; all else is found by `later` once its slice is there.
MOST_CODE = 4_500

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


def unpadded(text):
    """A Markdown text whose tables do not line up."""
    return re.sub(r" +", " ", text)


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


def test_a_full_yaml_checks_itself():
    text = "score: !name:len\nlora_rank: -1\n"
    with pytest.raises(ConfigError, match="lora_rank: -1"):
        load_hyperpyyaml(text + with_check(text))
    text = text.replace("-1", "4")
    assert load_hyperpyyaml(text + with_check(text))[CHECK] is None


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
    assert f"!name:{PACKAGE}.model.decoder.Decoder.from_source" in text
    assert not set(recipe.dropped) & set(keys)


def test_a_variant_that_does_not_fit_is_refused(tmp_path):
    (tmp_path / "train.yaml").write_text("steps: 1\n")
    (tmp_path / "two.yaml").write_text("base: train.yaml\nstep: 2\n")
    with pytest.raises(ConfigError, match="did you mean steps"):
        full_yaml(str(tmp_path / "two.yaml"))
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
def python_of(plan, *folders):
    """Planned Python files in some folders: path to text."""
    return {
        path: planned.text
        for path, planned in plan.files.items()
        if path.endswith(".py")
        and path.startswith(folders)
        and planned.kind != "link"
    }


def test_the_library_there_is_the_library_here(plan):
    """What is tested is what ships: a prefix, the authors, a version."""
    here = {p.relative_to(ROOT / OURS).as_posix() for p in sources_here()}
    there = {path.removeprefix(f"{LIBRARY}/") for path in plan.files}
    assert here - {*STAYS} <= there
    signature = f"\n\nAuthors\n * {AUTHOR}\n"
    for path, text in python_of(plan, LIBRARY).items():
        ours = (ROOT / OURS / path.removeprefix(f"{LIBRARY}/")).read_text()
        # This project's own version is not theirs.
        ours = ours.partition("\n__version__")[0]
        assert text.count(signature) == 1, path
        back = text.replace(PACKAGE, OURS).replace(f"{LIBRARY}/", f"{OURS}/")
        assert unsigned(back, signature) == unsigned(ours, signature), path


def sources_here():
    """The library's files in this repository."""
    found = (ROOT / OURS).rglob("*")
    return [p for p in found if p.is_file() and "__pycache__" not in p.parts]


def unsigned(text, signature):
    """A source without its authors, layout of the head's end apart."""
    text = text.replace(signature, "", 1)
    return re.sub(r'\s*"""', '"""', text, count=2)


def test_only_the_settings_lines_of_a_script_change():
    for recipe in RECIPES:
        ours = (ROOT / recipe.ours / "train.py").read_text().split("\n")
        theirs = recipe_scripts(recipe)["train.py"]
        said = {**SETTINGS, **recipe.exchanged, "": f"\nAuthors\n * {AUTHOR}"}
        for line in theirs.split("\n"):
            in_block = any(line in text.split("\n") for text in said.values())
            in_line = any(text and text in line for text in said.values())
            ended = f"    run_command(lambda: {line.strip()})"
            assert {line, ended} & {*ours} or in_block or in_line, line


def test_an_exchange_that_finds_nothing_is_refused(monkeypatch):
    monkeypatch.setitem(SETTINGS, "no such line", "")
    with pytest.raises(ValueError, match="no such line.*mend SETTINGS"):
        recipe_scripts(RECIPES[0])


def test_nothing_of_ours_is_left_behind(plan):
    for path, planned in plan.files.items():
        text = planned.text.replace(AUTHOR, "")
        assert not re.search(rf"{OURS}|speechllm\b", text), path
        assert OURS not in path


def test_authors_stand_at_the_end_of_the_head():
    said = with_authors('"""Says."""\nimport os\n')
    assert said == f'"""Says.\n\nAuthors\n * {AUTHOR}\n"""\nimport os\n'
    with pytest.raises(ValueError, match="x.py: no docstring"):
        with_authors("import os", "x.py")


# ------------------------------------------------------------------ slices
def test_the_table_names_what_is_there():
    for part in (part for parts in SLICES.values() for part in parts):
        path = ROOT / OURS / part
        assert path.is_dir() or path.with_suffix(".py").is_file(), part
    assert slice_of("layers/plans/Plan") == slice_of("layers/plans.py")
    assert slice_of("layers/planned.py") == ORDER[0] == latest([])


def crossings():
    """Imports of a later slice that happen on being imported oneself."""
    found = []
    top = ROOT / OURS
    sources = [
        (slice_of(p.relative_to(top).as_posix()), p.name, p.read_text())
        for p in sources_here()
        if p.suffix == ".py"
    ]
    # As they are there: with their settings lines exchanged.
    sources += [
        (r.slice, r.dataset, recipe_scripts(r)["train.py"]) for r in RECIPES
    ]
    for own, path, text in sources:
        for name in imported_names(text, late=False):
            inner = name.removeprefix(f"{OURS}.")
            other = slice_of(inner.replace(".", "/"))
            if inner != name and latest([own, other]) != own:
                found.append(f"{path} ({own}): {name}")
    return found


def test_a_slice_imports_nothing_of_a_later_one():
    assert crossings() == []


def test_what_is_asked_for_by_name_is_of_a_later_slice():
    top, asked = ROOT / OURS, 0
    for path in sources_here():
        if path.suffix == ".py":
            own = slice_of(path.relative_to(top).as_posix())
            names = re.findall(r'later\(\s*"([\w.]+)"', path.read_text())
            for name in (name.replace(".", "/") for name in names):
                asked += 1
                assert (top / f"{name}.py").is_file(), f"{path}: {name}"
                assert latest([own, slice_of(name)]) != own or own != ORDER[0]
    assert asked > 30


def test_late_imports_are_told_from_early_ones():
    text = (
        "import a\nclass B:\n    import b\n    def f(self):\n        import c"
    )
    assert set(imported_names(text, late=False)) == {"a", "b"}
    assert set(imported_names(text)) == {"a", "b", "c"}
    late = f"def f():\n    from {OURS}.healing.bridge import Bridge"
    assert slice_of_source(late) == "maps"


def test_the_first_slice_can_be_read(capsys):
    first = Plan(lambda path: THEIRS.get(path, ""), last=ORDER[0])
    assert {r.dataset for r in first.recipes} == {"LibriSpeech"}
    assert f"{LIBRARY}/layers/plans.py" not in first.files
    assert "measure.py" not in "".join(first.files)
    assert "measure.py" not in text_of(first, f"{RECIPES[0].theirs}/README.md")
    # Settings are checked by a later slice; every key is used without it, too.
    there = RECIPES[0].theirs
    script = text_of(first, f"{there}/train.py")
    yamls = [path for path in first.files if path.endswith(".yaml")]
    for path in yamls:
        assert CHECK not in text_of(first, path)
        assert unused_keys(text_of(first, path), script) == [], path
    assert yamls and "read_utterance" not in script
    python = python_of(first, LIBRARY, "recipes/")
    # Models for tests and examples.
    del python[f"{LIBRARY}/tiny_models.py"]
    counts = [house.count(text)[:2] for text in python.values()]
    lines, code = map(sum, zip(*counts))
    with capsys.disabled():
        print(
            f"\nslice {ORDER[0]}: {len(python)} files, {lines} lines, "
            f"{code} of code"
        )
    assert code <= MOST_CODE


def test_each_slice_stands_on_those_before_it(plan):
    before = set()
    for name in ORDER:
        part = Plan(lambda path: THEIRS.get(path, ""), last=name)
        assert before <= set(part.files)
        before = set(part.files)
    assert before == set(plan.files)


def test_every_import_finds_its_file(plan):
    for path, planned in plan.files.items():
        if not path.endswith(".py") or planned.kind == "link":
            continue
        # The version that SpeechBrain's linter reads.
        tree = ast.parse(planned.text, path, feature_version=(3, 8))
        for node in ast.walk(tree):
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


def test_the_librarys_tests_stand_on_the_library_alone(plan):
    tests = python_of(plan, TESTS)
    assert len(tests) > 15 and f"{TESTS}/conftest.py" in tests
    beside = {Path(path).stem for path in tests} - {"conftest"}
    here = {path.stem for path in (ROOT / "tests").iterdir()}
    here |= {path.name for path in ROOT.iterdir()}
    for path, text in tests.items():
        tops = {name.split(".")[0] for name in imported_names(text)}
        assert not tops & (here - beside), path
        assert "__file__" not in text, path


def test_what_users_call_is_explained(plan):
    """Whatever is public has its docstring; the front door's, all of it."""
    door = (ROOT / OURS / "layers/__init__.py").read_text()
    wanted = {name.replace(OURS, PACKAGE) for name in imported_names(door)}
    seen = 0
    for path, text in python_of(plan, LIBRARY).items():
        module = path.removesuffix(".py").replace("/", ".")
        for node in ast.parse(text).body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                continue
            said = ast.get_docstring(node)
            assert said or node.name[0] == "_", f"{path}: {node.name}"
            if f"{module}.{node.name}" in wanted and has_arguments(node):
                seen += 1
                assert "Arguments\n---" in said, f"{path}: {node.name}"
    assert seen >= 3


def has_arguments(node):
    """Whether a function takes any."""
    return isinstance(node, ast.FunctionDef) and bool(node.args.args)


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


# ----------------------------------------------------------------- READMEs
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.dataset)
def test_readme_names_what_is_there(plan, recipe):
    text = text_of(plan, f"{recipe.theirs}/README.md")
    there = {f"{name}.yaml" for name in plan.yamls[recipe.dataset]}
    assert set(re.findall(r"[\w.-]+\.yaml", text)) == there
    assert text.endswith(CLOSING) and "@" not in text.split(CLOSING)[0]
    assert "| Release | hyperparams file |" in unpadded(text)


def test_measured_scores_stand_in_readme_and_row():
    scores = {"test-clean": 2.013, "test-other": 4.771}
    run = {"date": "2026-07-01", "scores": scores}
    plan = Plan(lambda path: THEIRS.get(path, ""), {"qwen7b": run})
    text = unpadded(text_of(plan, f"{RECIPES[0].theirs}/README.md"))
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
    return command.main([str(checkout), "--only", "none", *words])


@pytest.mark.parametrize(
    ("option", "said"),
    [("--only=rufff", "--only: rufff, choose"), ("--results=no", "no, there")],
)
def test_what_names_nothing_is_refused(checkout, capsys, option, said):
    assert command.main([str(checkout), option]) == 2
    assert said in capsys.readouterr().err
    assert not (checkout / RECIPES[0].theirs).exists()


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
    (checkout / ".gitignore").write_text("**/healing/\n")
    subprocess.run(["git", "add", "."], cwd=checkout, check=True)
    commit = "-c user.name=a -c user.email=a@b commit -qm y".split()
    subprocess.run(["git", *commit], cwd=checkout, check=True)
    assert run(checkout, "--dry-run") == 2
    told = capsys.readouterr().err
    assert f"passes over {LIBRARY}/healing/" in told


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(CheckoutError, match="no checkout of SpeechBrain"):
        Checkout(tmp_path)
