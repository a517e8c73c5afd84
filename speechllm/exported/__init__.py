"""Load an exported speech LLM and use it; `speechllm.load` is the way in."""

import warnings
from typing import Any

from speechllm.exported.model import ExportedSpeechLLM, SpeechLLMInterface
from speechllm.exported.transcribe import Piece, Transcript

__all__ = ["ExportedSpeechLLM", "Piece", "SpeechLLMInterface", "Transcript"]


def __getattr__(name: str) -> Any:
    if name != "SpeechLLM":
        raise AttributeError(f"{__name__} has no {name}")
    warnings.warn(
        "speechllm.exported.SpeechLLM is ExportedSpeechLLM now: load one with "
        "speechllm.load(FOLDER)",
        DeprecationWarning,
        stacklevel=2,
    )
    return ExportedSpeechLLM
