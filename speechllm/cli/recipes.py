"""``speechllm recipes``: the recipes that come along, without a clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click

from speechllm.packaged import folder_of

MADE = shutil.ignore_patterns("results", "__pycache__")


@click.group()
def recipes() -> None:
    """The recipes that come along: list, copy, run them.

    \b
    speechllm recipes ls
    speechllm recipes cp LibriSpeech
    speechllm recipes run LibriSpeech hparams/mini.yaml --data_folder DIR
    """


def found() -> dict[str, Path]:
    """A recipe's name, that of its data, and its folder."""
    top = folder_of("recipes")
    tables = sorted(top.rglob("extra_requirements.txt"))
    return {file.relative_to(top).parts[0]: file.parent for file in tables}


def head_of(file: Path) -> str:
    """What a YAML or a README says of itself in its first line of text."""
    lines = file.read_text(encoding="utf-8").splitlines()
    told = (line.strip("# ") for line in lines)
    return next((line for line in told if line), "")


class RecipeName(click.ParamType):
    """A recipe's name, as `ls` tells it."""

    name = "recipe"

    def convert(self, value, param, ctx):
        """The name and its folder."""
        known = {name.lower(): (name, path) for name, path in found().items()}
        # A folder in a clone is a name too.
        asked = value.removeprefix("recipes/").split("/")[0].lower()
        if asked not in known:
            names = ", ".join(name for name, _ in known.values())
            self.fail(f"{value}: no such recipe: known are {names}", param, ctx)
        return known[asked]


recipe_argument = click.argument("recipe", type=RecipeName(), metavar="NAME")


@recipes.command("ls")
@click.argument("recipe", type=RecipeName(), metavar="[NAME]", required=False)
def list_recipes(recipe: tuple[str, Path] | None) -> None:
    """All recipes; with a NAME, its scripts and settings."""
    if not recipe:
        for name, folder in found().items():
            click.echo(f"{name:12s}  {head_of(folder / 'README.md')}")
        return
    name, folder = recipe
    scripts = [p.name for p in sorted(folder.glob("*.py"))]
    click.echo(f"{name}: {folder}\nscripts: {', '.join(scripts)}")
    for file in sorted((folder / "hparams").glob("*.yaml")):
        click.echo(f"hparams/{file.name:24s}  {head_of(file)}")


@recipes.command("cp")
@recipe_argument
@click.argument("folder", type=click.Path(file_okay=False), default="recipes")
def copy(recipe: tuple[str, Path], folder: str) -> None:
    """Copy a recipe below a FOLDER (by default recipes), to change it."""
    source = recipe[1]
    target = Path(folder, source.relative_to(folder_of("recipes")))
    if target.exists():
        raise FileExistsError(
            f"{target}: is there already: move it away, or name another folder"
        )
    from speechbrain_ext.runs.folders import whole_folder

    with whole_folder(target) as new:
        shutil.copytree(source, new, ignore=MADE, dirs_exist_ok=True)
    click.echo(f"cd {target}\npip install -r extra_requirements.txt")


@recipes.command(
    "run",
    # All behind the recipe's name is for its script.
    context_settings={"allow_interspersed_args": False},
)
@recipe_argument
@click.argument("words", nargs=-1, required=True, metavar="[SCRIPT] YAML ...")
def run(recipe: tuple[str, Path], words: tuple[str, ...]) -> int:
    """Run a recipe's script (train.py if none is named) from here.

    As in its own folder, but results go below the folder one is in:

    \b
    speechllm recipes run LibriSpeech hparams/mini.yaml --data_folder DIR
    speechllm recipes run LibriSpeech measure.py hparams/mini.yaml ...
    """
    folder = recipe[1]
    scripts = [p.name for p in folder.glob("*.py")]
    given = list(words)
    usual = "train.py" if "train.py" in scripts else "run.py"
    script = given.pop(0) if given[0].endswith(".py") else usual
    if script not in scripts:
        raise click.UsageError(
            f"{script}: choose from {', '.join(sorted(scripts))}"
        )
    # What stands here goes before what comes along.
    given = [
        str(folder / word)
        if word.endswith(".yaml")
        and not os.path.exists(word)
        and (folder / word).is_file()
        else word
        for word in given
    ]
    return subprocess.call([sys.executable, str(folder / script), *given])
