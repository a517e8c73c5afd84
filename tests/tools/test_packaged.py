"""What comes along is found: in a clone, in a wheel, in a copied recipe."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

import speechbrain_ext
import speechllm
from speechbrain_ext.runs.result import load_run
from speechbrain_ext.training.faults import ConfigError
from speechllm import cli
from speechllm.cli.recipes import found
from speechllm.packaged import packaged_path
from speechllm.settings import load_hparams, merge

TOP = Path(__file__).parents[2]
MINI = TOP / "recipes/LibriSpeech/ASR/SpeechLLM/hparams/mini.yaml"
MODELS = TOP / "speechllm/mini_world/models"


def said(capsys, *words):
    """Exit code, standard output and standard error of a command."""
    code = cli.main([str(word) for word in words])
    return code, *capsys.readouterr()


# -- names --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, path",
    [
        ("package:backbones/qwen2.5-7b.yaml", "hparams/backbones"),
        ("package:encoders/mini-wavlm.yaml", "hparams/encoders"),
        ("package:models/mini-qwen2", "speechllm/mini_world/models"),
    ],
)
def test_names_of_the_package(name, path):
    found = TOP / path / name.split("/")[-1]
    assert packaged_path(name) == str(found) and found.exists()
    assert packaged_path("org/model") == "org/model"


@pytest.mark.parametrize(
    "name, mend",
    [
        ("package:models/mini-qwen3", "did you mean package:models/mini-qwen2"),
        ("package:backbones/x", "known are llama3.1-8b.yaml"),
        ("package:models/../pretrain", "known are mini-llama"),
        ("package:qwen", "begin with package:models/"),
    ],
)
def test_what_does_not_come_along_is_refused(name, mend):
    with pytest.raises(ValueError, match=re.escape(mend)) as refused:
        packaged_path(name)
    assert str(refused.value).startswith(f"{name}: ")


def test_sources_and_fragments_of_ones_own_variant(tmp_path, monkeypatch):
    """A variant anywhere; its base, fragment and source come along."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.yaml"
    told = f"base: {MINI}\nbackbone: !include:package:backbones/"
    file.write_text(f"{told}mini-llama.yaml\n")
    options = {"data_folder": "/data"}
    read = load_hparams(str(file), options)["backbone"]
    assert read["source"] == str(MODELS / "mini-llama")
    options["backbone.source"] = "package:models/mini-llama-8"
    read = load_hparams(str(file), options)["backbone"]
    assert read["source"] == str(MODELS / "mini-llama-8")
    assert str(MODELS / "mini-llama-8") in merge(
        str(file), options, self_contained=True
    )
    options["backbone"] = "package:backbones/mini-qwen2.yaml"
    assert load_hparams(str(file), options)["backbone"]["name"] == "mini-qwen2"
    options["backbone.source"] = "package:models/mini-lama"
    with pytest.raises(ConfigError, match="did you mean package:models/mini-"):
        load_hparams(str(file), options)
    file.write_text(f"{told}mini-lama.yaml\n")
    with pytest.raises(ConfigError, match="did you mean package:backbones/"):
        load_hparams(str(file), {"data_folder": "/data"})


@pytest.mark.parametrize(
    "name",
    ["models/backbones/mini-llama.yaml", "hparams/models/backbones/mini-llama"],
)
def test_the_links_that_were_are_understood(name, tmp_path, monkeypatch):
    """Users' variants and the settings of runs say so."""
    name = f"{name.removesuffix('.yaml')}.yaml"
    monkeypatch.chdir(MINI.parent.parent)
    options = {"data_folder": "/data", "backbone": name}
    assert load_hparams(str(MINI), options)["backbone"]["name"] == "mini-llama"
    file = tmp_path / "mine.yaml"
    file.write_text(f"base: {MINI}\nbackbone: !include:../a/{name}\n")
    options.pop("backbone")
    assert load_hparams(str(file), options)["backbone"]["name"] == "mini-llama"


def test_nothing_in_git_is_a_link():
    """A clone on Windows would have text files in their place."""
    git = shutil.which("git")
    if not git or not (TOP / ".git").exists():
        pytest.skip("no clone")
    listed = subprocess.run(
        [git, "ls-files", "-s"], cwd=TOP, capture_output=True, text=True
    ).stdout
    assert listed and "\n120000 " not in f"\n{listed}"


# -- the command --------------------------------------------------------------


def test_one_version(capsys):
    assert speechllm.__version__ == speechbrain_ext.__version__
    assert (
        said(capsys, "--version")[1] == f"speechllm {speechllm.__version__}\n"
    )
    text = (TOP / "pyproject.toml").read_text("utf-8")
    project = tomllib.loads(text)["project"]
    assert "version" in project["dynamic"] and "version" not in project


def test_ls_tells_of_every_recipe(capsys):
    _, out, _ = said(capsys, "recipes", "ls")
    scripts = {p.parent for p in (TOP / "recipes").rglob("hparams")}
    assert set(found().values()) == scripts
    assert [line.split()[0] for line in out.splitlines()] == list(found())
    _, out, _ = said(capsys, "recipes", "ls", "librispeech")
    assert "train.py" in out and "hparams/qwen7b.yaml" in out
    code, _, err = said(capsys, "recipes", "ls", "Libri")
    assert code == 2 and f"known are {', '.join(found())}" in err


def test_cp_leaves_what_is_there(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = said(capsys, "recipes", "cp", "OwnData")
    folder = tmp_path / "recipes/OwnData/ASR/SpeechLLM"
    assert code == 0 and "cd recipes/OwnData/ASR/SpeechLLM" in out
    assert {"train.py", "own_prepare.py", "hparams"} <= {
        p.name for p in folder.iterdir()
    }
    assert not (folder / "results").exists()
    code, _, err = said(capsys, "recipes", "cp", "OwnData")
    assert code == 1 and "is there already" in err


def test_run_hands_words_and_code_on(capsys, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(subprocess, "call", lambda w: calls.append(w) or 3)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("")
    folder = found()["LibriSpeech"]
    run = ["recipes", "run", "LibriSpeech"]
    assert said(capsys, *run, "hparams/mini.yaml", "--steps", "2")[0] == 3
    assert said(capsys, *run, "measure.py", "mine.yaml", "--help")[0] == 3
    assert said(capsys, "recipes", "run", "MultiTask", "mine.yaml")[0] == 3
    mini = str(folder / "hparams/mini.yaml")
    assert calls == [
        [sys.executable, str(folder / "train.py"), mini, "--steps", "2"],
        [sys.executable, str(folder / "measure.py"), "mine.yaml", "--help"],
        [sys.executable, str(found()["MultiTask"] / "run.py"), "mine.yaml"],
    ]
    code, _, err = said(capsys, *run, "heal.py", "mine.yaml")
    assert code == 2 and "heal.py: choose from librispeech_prepare.py" in err


@pytest.mark.parametrize(
    "words, index", [((), 0), (("TORCH=cpu",), 1), (("TORCH=cuda",), 0)]
)
def test_make_asks_for_a_torch_without_cuda(words, index):
    if not shutil.which("make"):
        pytest.skip("no make")
    # As in a clone where nothing is installed.
    told = subprocess.run(
        ["make", "-n", "-B", "mini", *words],
        cwd=TOP,
        env={k: v for k, v in os.environ.items() if k != "TORCH"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = [line for line in told.splitlines() if "pip install" in line]
    at = "--extra-index-url https://download.pytorch.org/whl/cpu"
    assert [at in line for line in lines] == [False, bool(index)]
    assert "-e '.[report,mini,parquet,dev]'" in lines[1]


# -- sdist and wheel ----------------------------------------------------------


def sources(folder):
    """The files of a clone, as git lists them, in a folder of their own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=TOP, capture_output=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (TOP / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TOP / name, folder / name)
    # What runs leave in a clone does not travel.
    left = folder / "recipes/OwnData/ASR/SpeechLLM/results/own/train.py"
    left.parent.mkdir(parents=True)
    left.write_text("")
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The unpacked sdist, and the wheel that was built from it."""
    if not (shutil.which("git") and (TOP / ".git").exists()):
        pytest.skip("no clone")
    build_meta = pytest.importorskip("setuptools.build_meta")
    folder = tmp_path_factory.mktemp("built")
    clone = sources(folder / "clone")
    there = os.getcwd()
    os.chdir(clone)
    try:
        name = build_meta.build_sdist(str(folder))
    finally:
        os.chdir(there)
    shutil.unpack_archive(folder / name, folder, filter="data")
    unpacked = folder / name.removesuffix(".tar.gz")
    words = "wheel --quiet --no-deps --no-index --no-build-isolation -w"
    subprocess.run(
        [sys.executable, "-m", "pip", *words.split(), folder, unpacked],
        check=True,
    )
    return unpacked, next(folder.glob("*.whl"))


def a_venv(folder):
    """An empty environment that sees this one's packages, not this project."""
    venv.create(folder, symlinks=True)
    place = next(folder.glob("lib/python3*/site-packages"))
    packages = [path for path in sys.path if path.endswith("-packages")]
    (place / "packages.pth").write_text("\n".join([*packages, ""]))
    return folder / "bin"


@pytest.mark.slow
def test_an_sdist_has_what_its_tests_want(built):
    unpacked, _ = built
    for name in ("tests/conftest.py", "tests/golden/merged.json", "Makefile"):
        assert (unpacked / name).is_file(), name
    for name in ("CHANGELOG.md", "CITATION.cff", "SECURITY.md", "upstream"):
        assert (unpacked / name).exists(), name
    assert not list(unpacked.rglob("results/own"))
    about = (unpacked / "PKG-INFO").read_text("utf-8")
    assert f"\nVersion: {speechllm.__version__}\n" in about
    # An index page has none of the repository's pictures and files.
    text = about.partition("\n\n")[2]
    assert re.findall(r"\]\((?!https?:|#)", text) == [] and "# " in text


@pytest.mark.slow
def test_a_wheel_runs_a_recipe_from_an_empty_folder(built, tmp_path, corpus):
    bin_folder = a_venv(tmp_path / "venv")
    pip = [sys.executable, "-m", "pip", f"--python={bin_folder}/python"]
    words = "install --quiet --no-deps --no-index".split()
    subprocess.run([*pip, *words, built[1]], check=True)
    here = tmp_path / "here"
    here.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def typed(*words, folder=here):
        done = subprocess.run(
            [bin_folder / words[0], *map(str, words[1:])],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout

    assert typed("speechllm", "--version").split()[1] == speechllm.__version__
    listed = typed("speechllm", "recipes", "ls")
    assert [line.split()[0] for line in listed.splitlines()] == list(found())
    where = typed("speechllm", "recipes", "ls", "LibriSpeech").splitlines()[0]
    assert str(tmp_path / "venv") in where
    told = typed("speechllm", "recipes", "cp", "LibriSpeech").splitlines()[0]
    copied = here / told.removeprefix("cd ")
    assert (copied / "librispeech_prepare.py").is_file()
    options = {
        "data_folder": corpus,
        "results_folder": here / "results",
        "train_splits": "[train-clean-100]",
        "valid_splits": "[dev-clean]",
        "test_splits": "[test-clean]",
        "loss_splits": "[]",
        "steps": 2,
        "warmup_steps": 0,
        "warmdown_steps": 2,
        "valid_interval": 2,
        "batch_size": 2,
        "max_new_tokens": 4,
    }
    options = [f"--{key}={value}" for key, value in options.items()]
    run = ["speechllm", "recipes", "run", "LibriSpeech"]
    typed(*run, "hparams/mini.yaml", *options)
    pruned = ["hparams/mini_prune.yaml", *options, "--path_from=text"]
    typed("python", "train.py", *pruned, folder=copied)
    whole, less = (
        load_run(here / "results" / name) for name in ("mini", "mini_prune")
    )
    assert (whole.status, less.status) == ("done", "done")
    assert str(tmp_path / "venv") in whole.configuration["backbone"]["source"]
    assert whole.versions["speechbrain_ext"] == speechllm.__version__
