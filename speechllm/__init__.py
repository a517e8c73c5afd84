"""Tools around pruned speech LLMs: command line, exports, reports, the mini world.

import speechllm

model = speechllm.load("exported-folder-or-hub-id")
print(model.transcribe("some.wav").text)
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

from speechbrain_ext import __version__

if TYPE_CHECKING:
    from speechllm.exported.model import ExportedSpeechLLM

# Loaded when they are asked for: the command line starts in a moment.
_FROM = {
    "Block": "speechbrain_ext.layers",
    "RedundancyTable": "speechbrain_ext.layers",
    "drop_layers": "speechbrain_ext.layers",
    "load_pruned": "speechbrain_ext.layers",
    "measure": "speechbrain_ext.layers",
    "ExportedSpeechLLM": "speechllm.exported",
    "Piece": "speechllm.exported",
    "Transcript": "speechllm.exported",
    "export_runs": "speechllm.export.write",
    "MultiTask": "speechllm.multitask",
    "pick_device": "speechllm.device",
}
__all__ = ["__version__", "load", *_FROM]


def load(source: str | os.PathLike, **options: Any) -> ExportedSpeechLLM:
    """An exported speech LLM; options as `ExportedSpeechLLM.from_pretrained`."""
    from speechllm.exported.model import ExportedSpeechLLM

    return ExportedSpeechLLM.from_pretrained(source, **options)


def __getattr__(name: str) -> Any:
    if name not in _FROM:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    value = globals()[name] = getattr(
        importlib.import_module(_FROM[name]), name
    )
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _AfterPipelines(importlib.abc.MetaPathFinder):
    """Has exports registered once transformers' pipelines are imported.

    They may never be, and take seconds: nothing is imported for them here.
    """

    NAME = "transformers.pipelines"

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """The module's own spec, with a step behind its execution."""
        if name != self.NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: Any) -> None:
            execute(module)
            _register()

        spec.loader.exec_module = execute_and_register  # type: ignore
        return spec


def _register() -> None:
    from speechllm.registered import register

    register()


if _AfterPipelines.NAME in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _AfterPipelines())
