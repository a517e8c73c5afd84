"""The pages: short enough, links that lead somewhere, texts that are true."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from speechllm.cli import cli
from speechllm.keys import FIRST, all_keys, read_keys

ROOT = Path(__file__).parents[2]
SOURCES = ("speechbrain_ext", "speechllm")


def tool(name):
    """A module of tools/."""
    place = ROOT / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, place)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


site = tool("docs_site")
PAGES = [
    ROOT / name
    for name in (
        "README.md",
        *site.pages(),
        *(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md")),
    )
]
names = [str(path.relative_to(ROOT)) for path in PAGES]


# ----------------------------------------------------------------------------
# README and links


def test_the_readme_is_read_in_a_minute():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.split()) <= 700
    assert text.count("\n![") == 1
    # What was not run stands above the first command.
    assert text.index("Not run yet") < text.index("```")
    assert "make mini" in text and "make test" in text


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", text, re.M)
    return {
        re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-")
        for head in heads
    }


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links_lead_to_files(page):
    text = page.read_text("utf-8")
    prose = "".join(site.CODE.split(text)[::2])
    for _, told, target in site.LINK.findall(prose):
        path, _, anchor = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        there = (page.parent / path) if path else page
        assert there.exists(), f"{told}: {target}"
        if anchor:
            assert anchor in anchors(there.read_text("utf-8")), target


def test_links_are_those_of_the_site():
    known = {"workflow/README.md", "recipes/A/README.md"}
    text = (
        "[a](../workflow/README.md#x) [b](results.md) [c](../README.md) "
        "[d](../Makefile) `[e](../Makefile)` [f](https://a.b) "
        "[g](tutorials/1.ipynb) [h](../recipes/A/README.md) [i](#x) "
        "![j](mini/curves.png) [k](../workflow) [l](nowhere.md)"
    )
    found = site.relinked(text, "docs/gpu.md", "gpu.md", known)
    assert found == (
        "[a](workflow/README.md#x) [b](results.md) [c](index.md) "
        "d `[e](../Makefile)` [f](https://a.b) "
        "[g](tutorials/1.md) [h](recipes/A/README.md) [i](#x) "
        "![j](mini/curves.png) [k](workflow/README.md) [l](nowhere.md)"
    )
    found = site.relinked(
        "[a](../../docs/results.md)",
        "recipes/A/README.md",
        "recipes/A/README.md",
        known,
    )
    assert found == "[a](../../results.md)"


# ----------------------------------------------------------------------------
# Keys and commands


@pytest.mark.parametrize("name", ["LibriSpeech/ASR", "OwnData/ASR"])
def test_every_key_of_a_yaml_is_told(name):
    file = ROOT / f"recipes/{name}/SpeechLLM/hparams/train.yaml"
    told = {key.name: key for key in read_keys(file, name)}
    wanted = re.findall(r"^([a-z]\w*):", file.read_text("utf-8"), re.M)
    assert set(wanted) == {one for one in told if "." not in one}
    known = all_keys()
    assert [one for one in told if not known[one].about] == []
    # Below an included fragment and a mapping, not below an object.
    assert "backbone.source" in told and "lora.rank" not in told


def test_a_key_has_its_default_and_its_status():
    keys = all_keys()
    assert keys["downsampling"].default == "5"
    assert keys["downsampling"].status == "reference"
    assert keys["steps"].status == "guess"
    assert keys["test_splits"].status == "stated"
    assert keys["keep"].about.startswith("last: the last step's weights")
    assert keys["skip_bad"].section == "Folders"
    assert keys["healing"].status == "stated, guess"
    assert keys["split.seed"].recipes == ("OwnData/ASR",)
    assert FIRST in keys["lora"].recipes and keys["lora"].section == "Objects"


def test_keys_are_told_in_a_terminal():
    def say(*words):
        return CliRunner().invoke(cli, ["keys", *words])

    assert "guess: open in the paper" in say("steps").output
    assert "split.seed: 1" in say("split").output
    listed = say().output
    assert "Healing" in listed and "  prune_layers: 0" in listed
    found = json.loads(say("keep", "--json").output)
    assert [one["default"] for one in found] == ["last"]
    wrong = say("prune_layer")
    assert wrong.exit_code == 2
    assert "did you mean prune_layers" in wrong.output
    assert "did you mean backbone.source" in say("source").output
    assert say("zzzzzz").exit_code == 2


def test_every_command_is_on_its_page():
    page = site.commands_page()
    for name, command in cli.commands.items():
        assert f"## speechllm {name}\n" in page
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert any(f" {one}" in page for one in option.opts)


# ----------------------------------------------------------------------------
# Errors


def said(source):
    """What a file's texts say, with … for what is put into them."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = [
                part.value if isinstance(part, ast.Constant) else "…"
                for part in node.values
            ]
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def test_errors_are_those_that_the_code_says():
    texts = [
        text
        for folder in SOURCES
        for file in sorted((ROOT / folder).rglob("*.py"))
        for text in said(file.read_text("utf-8"))
    ]
    page = (ROOT / "docs/errors.md").read_text("utf-8")
    rows = re.findall(r"^\| ([^|]+) \|", page, re.M)
    wanted = [part for row in rows for part in re.findall(r"`([^`]+)`", row)]
    assert len(wanted) > 30
    for part in wanted:
        pieces = [piece for piece in part.split("…") if piece.strip()]
        assert any(all(piece in text for piece in pieces) for text in texts), (
            part
        )


# ----------------------------------------------------------------------------
# Memory


def test_values_are_those_of_the_models_cards():
    memory = tool("memory")
    counted = {shape.name: shape.values() for shape in memory.SHAPES}
    assert counted == {
        "Qwen2.5-1.5B": 1_543_714_304,
        "Qwen2.5-3B": 3_085_938_688,
        "Qwen2.5-7B": 7_615_616_512,
        "Llama-3.2-1B": 1_235_814_400,
        "Llama-3.2-3B": 3_212_749_824,
        "Llama-3.1-8B": 8_030_261_248,
    }


def test_what_is_computed_is_near_what_a_gpu_measured():
    memory = tool("memory")
    shapes = {shape.name: shape for shape in memory.SHAPES}
    # benchmarks/README.md: peak GiB of a step, with and without checkpointing.
    for name, plain, less in (
        ("Qwen2.5-7B", 29.6, 17.9),
        ("Llama-3.2-1B", 7.8, 5.6),
    ):
        for measured, checkpointing in ((plain, False), (less, True)):
            found = memory.training(shapes[name], checkpointing) / memory.GIB
            assert found == pytest.approx(measured, rel=0.3)
    llama = shapes["Llama-3.1-8B"]
    assert memory.token_ms(llama) == pytest.approx(24.7 / 4.84, rel=0.02)
    assert memory.decoding(llama) / memory.GIB == pytest.approx(16.1, rel=0.05)
    # The paper's own: 15.72 GiB whole, 10.37 without 13 layers.
    assert memory.decoding(llama) / memory.GIB == pytest.approx(15.72, rel=0.02)
    without = memory.decoding(llama, 13) / memory.GIB
    assert without == pytest.approx(10.37, rel=0.02)


# ----------------------------------------------------------------------------
# Tutorials


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_tutorials_run_and_print_what_stands_in_them(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/notebooks.py"), "--check"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_tutorial_is_a_page(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# One\n", "two"]},
        {
            "cell_type": "code",
            "source": ["print(1)"],
            "outputs": [{"text": ["1\n"]}],
        },
    ]
    path = tmp_path / "x.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    assert site.notebook_page(path) == (
        "# One\ntwo\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n"
        "The notebook: [x.ipynb](x.ipynb)\n"
    )
