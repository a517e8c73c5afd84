"""What README and docs tell one to type is typed here, or is parsed.

Python is run, on tiny models under the names that the pages use. Of commands
each word is looked at: names and options of ``speechllm``, targets of the
Makefile, YAMLs and their keys, modules, files, extras. `NOT_RUN` has what is
beyond that, and why.
"""

import importlib.util
import os
import re
import shlex
import shutil
from pathlib import Path

import click
import pytest
import yaml
from exported import make_run, write_wav

from speechllm.cli import cli
from speechllm.keys import all_keys
from speechllm.settings import merge, parse_arguments

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.S | re.M)
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md"))),
    *(
        str(path.relative_to(ROOT))
        for pattern in (
            "recipes/*/*/SpeechLLM",
            "recipes/*/SpeechLLM",
            "workflow",
        )
        for path in sorted(ROOT.glob(f"{pattern}/README.md"))
    ),
]
NOT_RUN = {
    "git": "fetches from the network",
    "jq": "another program, which reads what a run left",
    "sacrebleu": "another program, which reads what a run left",
    "srun": "wants Slurm; make test-slurm runs one",
    "nvidia-smi": "wants a GPU",
    "get_covost_splits.py": "CoVoST 2's own script",
    "int8": "wants torchao",
    "Qwen2-Audio": "8 billion values; test_hub_models.py has a tiny one",
    "Qwen2Audio": "the same",
    "MultiTask": "wants two finished runs and a GPU; test_multitask.py has it",
}
# Fences that show something and tell nothing to type.
SHOWN = ("data -> baseline",)


def fences(page):
    """Language and text of each fence of a page."""
    text = (ROOT / page).read_text("utf-8")
    for indent, language, inside in FENCE.findall(text):
        yield language, re.sub(f"^{indent}", "", inside, flags=re.M)


def is_yaml(text):
    return re.match(r"(#.*\n)*[\w-]+:(\s|$)", text) is not None


# ----------------------------------------------------------------------------
# Python


@pytest.fixture(scope="module")
def world(tmp_path_factory, decoder_folders, encoder_folders):
    """A folder in which the pages' names are those of tiny things."""
    top = tmp_path_factory.mktemp("world")
    for name in ("Qwen/Qwen2.5-1.5B", "llama", "my-model-lm"):
        kind = "llama" if name == "llama" else "qwen2"
        shutil.copytree(decoder_folders[kind], top / name)
    sentences = [f"{one} sentence of many words" for one in "abcdefghijkl"]
    (top / "lines.txt").write_text("\n".join(sentences))
    for name in ("some.wav", "a.wav", "b.mp3"):
        write_wav(top / "sound.wav", 0.6)
        os.replace(top / "sound.wav", top / name)
    make_run(
        top / "results/mini/mini-prune2-both",
        decoder_folders["qwen2"],
        encoder_folders["wavlm"],
    )
    return top


def type_in(words, folder, monkeypatch):
    """Run a command of ``speechllm`` in a folder."""
    monkeypatch.chdir(folder)
    cli.main(args=words, prog_name="speechllm", standalone_mode=False)


@pytest.fixture(scope="module")
def exported(world):
    """The export that README makes first."""
    with pytest.MonkeyPatch.context() as patch:
        words = "export results/mini/mini-prune2-both my-model".split()
        type_in(words, world, patch)
    return world


def test_the_readmes_commands_run(exported, monkeypatch, capsys):
    run = []
    for _, text in fences("README.md"):
        for words in commands(text):
            if words[0] != "speechllm" or words[1] == "export":
                continue
            # Sizes of the pages' models, not of these.
            words = ["2" if word == "4" else word for word in words]
            type_in(words[1:], exported, monkeypatch)
            run.append(words[1])
    assert run == ["transcribe", "measure", "prune"]
    assert "distance" in capsys.readouterr().out
    assert (exported / "smaller/tokenizer.json").is_file()


@pytest.mark.parametrize(
    "page",
    [one for one in PAGES if any("python" == kind for kind, _ in fences(one))],
)
def test_python_runs(page, exported, monkeypatch):
    monkeypatch.chdir(exported)
    shutil.rmtree("smaller", ignore_errors=True)
    space, run = {"__name__": "__main__"}, ""
    for language, text in fences(page):
        if language != "python":
            continue
        # The pages' models have more layers than these.
        text = text.replace("range(20, 24)", "range(1, 3)")
        text = text.replace("best(4)", "best(2)")
        code = compile(text, page, "exec")
        if not any(name in text for name in NOT_RUN):
            exec(code, space)
            run += text
    for folder in ("smaller", "smaller-lm"):
        if f'"{folder}")' in run:
            assert Path(folder, "tokenizer.json").is_file()


# ----------------------------------------------------------------------------
# Commands


def commands(text):
    """The commands of a fence, as words; of a loop the first turn."""
    values = {}
    for line in re.sub(r"\\\n", " ", text).split("\n"):
        line = re.sub(r"^ *do |; done$|^ *done$", "", line)
        line = re.sub(r"\$\{?(\w+)\}?", lambda m: values.get(m[1], m[0]), line)
        words = shlex.split(line, comments=True)
        if words[:1] == ["for"]:
            values[words[1]] = words[3].rstrip(";")
        elif words and (found := re.match(r"(\w+)=(.*)", words[0])):
            values[found[1]] = found[2]
        elif words:
            yield words


def check_speechllm(words, folder):
    words = words[: words.index(">")] if ">" in words else words
    if words == ["--help"]:
        return
    command = cli
    while isinstance(command, click.Group):
        name, *words = words
        command = command.commands[name]
    command.make_context(name, list(words))


def check_make(words, folder):
    known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    targets = [w for w in words if "=" not in w and not w.startswith("-")]
    assert targets and set(targets) <= set(known), words


def check_script(words, folder):
    script, *rest = words
    if script in NOT_RUN or rest == ["..."]:
        return
    if script == "-m":
        assert importlib.util.find_spec(rest[0]), rest[0]
        return
    assert (folder / script).is_file(), f"{folder}: no {script}"
    if script == "measure.py":
        rest = without(rest, "--input", "--rule", "--layers", "--utterances")
    if script in ("train.py", "measure.py"):
        assert rest, words
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            file, _, overrides = parse_arguments(
                [word for word in rest if word != "..."]
            )
            merge(file, overrides)
    elif script == "run.py":
        for word in rest:
            if word.startswith("hparams/"):
                assert (folder / word).is_file()


def without(words, *options):
    """Words without some options and what follows each."""
    left, skip = [], False
    for word in words:
        skip = word in options if word.startswith("--") else skip
        if not skip:
            left.append(word)
    return left


def check_torchrun(words, folder):
    check_script(words[words.index("train.py") :], folder)


def check_pip(words, folder):
    known = (ROOT / "setup.py").read_text() + (
        ROOT / "pyproject.toml"
    ).read_text()
    for word in words:
        for extra in re.findall(r"\[([\w,]+)\]", word):
            for one in extra.split(","):
                assert re.search(rf'"?{one}"?\s*[:=]\s*\[', known), word
    if "-r" in words:
        assert (folder / words[words.index("-r") + 1]).is_file()


def check_snakemake(words, folder):
    for word in words:
        path = word.rpartition("=")[2]
        assert not path.startswith("workflow/") or (ROOT / path).exists()


CHECKS = {
    "speechllm": check_speechllm,
    "make": check_make,
    "python": check_script,
    "torchrun": check_torchrun,
    "pip": check_pip,
    "snakemake": check_snakemake,
    "source": lambda words, folder: None,
}


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_ones(page, monkeypatch):
    top = ROOT if page.startswith("docs/") else (ROOT / page).parent
    if page.startswith("workflow/"):
        top = ROOT / "recipes/LibriSpeech/ASR/SpeechLLM"
    for language, text in fences(page):
        if language not in ("", "bash", "shell") or text.startswith(SHOWN):
            continue
        if is_yaml(text):
            continue
        folder = top
        for words in commands(text):
            if words[0] == "cd":
                folder = (folder / words[1]).resolve()
                assert folder.is_dir(), words
                continue
            known = words[0] in NOT_RUN or words[0] in CHECKS
            assert known, f"{page}: {words}: checked by nothing"
            if words[0] in CHECKS:
                CHECKS[words[0]](words[1:], folder)
        if page.startswith("recipes/"):
            top = folder


@pytest.mark.parametrize("page", PAGES)
def test_yaml_has_known_keys(page):
    keys = all_keys()
    for language, text in fences(page):
        if language != "yaml" and not (language == "" and is_yaml(text)):
            continue
        content = yaml.safe_load(re.sub(r"![\w:.]+", "", text))
        assert isinstance(content, dict)
        kind = "speech_encoder" if "kind" in content else "backbone"
        for key in content:
            assert (
                key in keys
                or f"{kind}.{key}" in keys
                # Of a study, and of a task: files of their own kinds.
                or key in ("base", "timings")
                or page.startswith("recipes/MultiTask")
            ), f"{page}: {key}"


def test_a_wrong_command_is_seen():
    folder = ROOT / "recipes/LibriSpeech/ASR/SpeechLLM"
    for check, words in (
        (check_speechllm, ["prune", "x", "--output", "y", "--layer", "2"]),
        (check_speechllm, ["measure", "x", "--txet", "y"]),
        (check_make, ["minis"]),
        (check_script, ["train.py", "hparams/qwen7c.yaml"]),
        (check_script, ["train.py", "hparams/mini.yaml", "--step", "3"]),
        (check_script, ["-m", "speechllm.nothing"]),
        (check_pip, ["install", "-e", ".[nothing]"]),
        (check_snakemake, ["--config", "study=workflow/config/no.yaml"]),
    ):
        with pytest.raises(Exception, match="."):
            check(words, folder)
