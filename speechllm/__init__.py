"""Tools around pruned speech LLMs: command line, exports, reports, the mini world.

import speechllm

model = speechllm.load("exported-folder-or-hub-id")
print(model.transcribe("some.wav").text)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from speechbrain_ext import __version__

if TYPE_CHECKING:
    from speechllm.exported.model import ExportedSpeechLLM

__all__ = ["__version__", "load"]


def load(source: str | os.PathLike, **options: Any) -> ExportedSpeechLLM:
    """An exported speech LLM; options as `ExportedSpeechLLM.from_pretrained`."""
    # The command line starts in a moment, without torch.
    from speechllm.exported.model import ExportedSpeechLLM

    return ExportedSpeechLLM.from_pretrained(source, **options)
