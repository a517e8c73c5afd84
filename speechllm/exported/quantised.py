"""An export whose LLM has 8-bit weights, by torchao."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from speechllm.exported.format import ExportError

if TYPE_CHECKING:
    from speechllm.exported.model import ExportedSpeechLLM

INT8 = "int8"


def quantise(model: ExportedSpeechLLM) -> ExportedSpeechLLM:
    """Hold the matrices of the LLM's layers in 8 bits, each row scaled.

    Embeddings, the LM head, norms, adapters, bridges, the projector and the
    encoder stay as they are. What is computed stays in the model's own type.
    """
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise ImportError("int8 needs torchao: pip install torchao") from error
    done = []

    def wanted(module: torch.nn.Module, name: str) -> bool:
        """Whether a module is a matrix of the backbone's layers."""
        chosen = (
            isinstance(module, torch.nn.Linear)
            and ".layers." in f".{name}."
            and not {"lora_A", "lora_B", "bridges"} & set(name.split("."))
        )
        done.extend([name] if chosen else [])
        return chosen

    quantize_(model.decoder, Int8WeightOnlyConfig(), filter_fn=wanted)
    if not done:
        raise ExportError("int8: no matrix of a layer was found in the LLM")
    return model
