"""The folder of a hub Space that serves the page; nothing is uploaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from importlib.metadata import version

from speechbrain_ext import __version__
from speechbrain_ext.runs.files import write_text
from speechbrain_ext.runs.folders import whole_folder
from speechllm.exported.format import ExportFolder, files_of
from speechllm.exported.load import HUB_ID
from speechllm.saved import check_target

APP = """\
\"\"\"Whole and pruned speech LLMs, side by side.\"\"\"

from speechllm.demo.page import serve

if __name__ == "__main__":
    serve({models!r}, host="0.0.0.0", port=7860, table={table!r})
"""
README = """\
---
title: Pruned speech LLM
emoji: 🥞
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
{models}---

Whole and pruned speech LLMs side by side: drop a recording, see the text, the
seconds and the memory of each.
"""
TABLE = "redundancy.json"


def write_space(
    models: Sequence[str],
    folder: str,
    package: str | None = None,
    table: str | None = None,
) -> list[str]:
    """Write ``app.py``, ``requirements.txt``, ``README.md`` and the models.

    Hub ids are loaded by the Space, exported folders and a table copied. The
    package is a wheel file, which is copied, or a line of requirements.txt;
    None: this version, from the package index.
    """
    check_target(folder, "app.py", overwrite=False)
    with whole_folder(folder) as out:
        named = [_copied(model, out) for model in models]
        if table:
            shutil.copyfile(table, os.path.join(out, TABLE))
        app = APP.format(models=named, table=TABLE if table else None)
        write_text(os.path.join(out, "app.py"), app)
        requirement = _requirement(package, out)
        write_text(os.path.join(out, "requirements.txt"), requirement + "\n")
        on_hub = [f"- {name}\n" for name in named if name in models]
        readme = README.format(
            gradio=version("gradio"),
            models="models:\n" + "".join(on_hub) if on_hub else "",
        )
        write_text(os.path.join(out, "README.md"), readme)
        return files_of(out)


def _copied(model, out):
    """A hub id as it is; a folder is checked and copied into the Space."""
    if not os.path.isdir(model) and HUB_ID.fullmatch(model):
        return model
    ExportFolder(model)
    name = f"models/{os.path.basename(os.path.abspath(model))}"
    shutil.copytree(model, os.path.join(out, name))
    return name


def _requirement(package, out):
    """The line of requirements.txt that installs this package."""
    if package and os.path.isfile(package):
        name = os.path.basename(package)
        shutil.copyfile(package, os.path.join(out, name))
        return f"./{name}[demo]"
    return package or f"speechllm[demo]=={__version__}"
