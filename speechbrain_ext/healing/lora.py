"""LoRA inside the decoder: where it sits, how large it is, its file.

Paper, Section 3.3: LoRA on the MLP (gate, up, down) of the receiving layer.
Here it may also sit on attention, and on other layers that are kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

from speechbrain_ext.layers.removal import renumber
from speechbrain_ext.layers.weights import read_tensors

MLP = ("gate_proj", "up_proj", "down_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MODULES = {"mlp": MLP, "attention": ATTENTION, "both": ATTENTION + MLP}
# PEFT's name of the one adapter that a run trains.
ADAPTER = "healing"


@dataclass(frozen=True)
class Lora:
    """LoRA's numbers (the paper's are lost; these are guesses).

    Arguments
    ---------
    rank : int
        Rank r of the two factors.
    alpha : float
        The update is scaled by alpha / rank.
    dropout : float
        On the adapter's input, in training.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05


def add_adapter(
    decoder,
    modules: Iterable[str],
    layers: Iterable[int],
    lora: Lora | None = None,
    name: str = ADAPTER,
) -> None:
    """Attach LoRA to some modules of some layers, at zero."""
    lora = lora or Lora()
    config = LoraConfig(
        r=lora.rank,
        # PEFT says int, and divides.
        lora_alpha=cast(int, lora.alpha),
        lora_dropout=lora.dropout,
        target_modules=list(modules),
        layers_to_transform=list(layers),
        layers_pattern="layers",
        base_model_name_or_path=decoder.source,
        task_type="CAUSAL_LM",
    )
    decoder.use_adapter(_wrap(decoder, config, name))


def _wrap(decoder, config, name):
    """PEFT's adapter inside a decoder, beside others (PeftModel)."""
    if decoder.adapter is not None:
        decoder.adapter.add_adapter(name, config)
        return decoder.adapter
    adapter = get_peft_model(decoder.lm, config, adapter_name=name)
    # With gradient checkpointing PEFT makes the embeddings need a gradient,
    # which would then be computed through every layer, for nothing.
    decoder.lm.disable_input_require_grads()
    return adapter


def save_adapter(decoder, folder: str) -> None:
    """Write the adapter in PEFT's own format, into ``folder/<name>/``."""
    # PEFT would look for another vocabulary in the source's config, where a
    # model that has its decoder inside keeps none, and save the embeddings.
    decoder.adapter.save_pretrained(
        folder, safe_serialization=True, save_embedding_layers=False
    )


def load_adapter(
    decoder,
    folder: str,
    kept: tuple[int, ...] | None = None,
    merge: bool = False,
    name: str = ADAPTER,
) -> None:
    """Put a saved adapter back, also onto fewer layers than it was made for."""
    config, state = kept_adapter(decoder, folder, kept)
    config.inference_mode = False
    adapter = _wrap(decoder, config, name)
    report: Any = set_peft_model_state_dict(adapter, state, name)
    if report.unexpected_keys:
        raise ValueError(
            f"{folder}: the adapter does not fit this decoder "
            f"({report.unexpected_keys[0]}). It was made for another model."
        )
    decoder.use_adapter(adapter)
    if merge:
        decoder.lm = adapter.merge_and_unload()
        decoder.use_adapter(None)


def kept_adapter(
    decoder, folder: str, kept: tuple[int, ...] | None = None
) -> tuple[LoraConfig, dict]:
    """A saved adapter's configuration and tensors, of the kept layers alone.

    Tensors are named as PEFT does, with the layer's index in this decoder.
    """
    path = os.path.join(folder, "adapter_model.safetensors")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path} is not there: no adapter was saved.")
    config = LoraConfig.from_pretrained(folder)
    deepest = max(config.layers_to_transform)
    if kept is None and deepest >= decoder.num_layers:
        raise ValueError(
            f"{folder}: the adapter was made for a decoder of at least "
            f"{deepest + 1} layers, this one has {decoder.num_layers}. Say "
            "which of its layers are kept, or give another adapter."
        )
    kept = kept or tuple(range(decoder.num_layers))
    new_index = {old: new for new, old in enumerate(kept)}
    config.layers_to_transform = [
        new_index[old] for old in config.layers_to_transform if old in new_index
    ]
    state = {
        renumber(key, new_index): value
        for key, value in read_tensors(path).items()
    }
    state.pop(None, None)
    return config, state
