"""The LLM: load it, embed, hidden states, target logits, greedy decoding.

Any Hugging Face causal LM of the Llama or Qwen2 kind. Its embeddings are
never resized: a row is padded with nothing but a mask, and stop tokens come
from the tokenizer and the model's generation settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from speechbrain_ext.later import later
from speechbrain_ext.layers.lm_calls import (
    base_model,
    embed,
    last_states,
    logits_of,
)
from speechbrain_ext.layers.pruned_config import checks_of
from speechbrain_ext.layers.removal import Removal
from speechbrain_ext.layers.surgery import load_pruned
from speechbrain_ext.layers.weights import load_tokenizer, source_config
from speechbrain_ext.model.decoding import greedy
from speechbrain_ext.model.prompt import Sequence

if TYPE_CHECKING:
    from peft import PeftModel

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Decoder(torch.nn.Module):
    """A causal LM with its tokenizer, whole or pruned.

    Arguments
    ---------
    lm : transformers.PreTrainedModel
        The causal LM.
    tokenizer : transformers.PreTrainedTokenizerBase
        Its tokenizer.
    source : str
        Where both came from; for results and error messages.
    kept : tuple of int or None
        Which of the source's layers `lm` has; None: all.
    decode_static : bool
        Decode in buffers of a fixed size, as one recorded graph on a GPU.
    padding_free : bool
        Train on a batch as one row without padding.
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        source: str = "",
        kept: tuple[int, ...] | None = None,
        decode_static: bool = False,
        padding_free: bool = False,
    ):
        super().__init__()
        self.lm = lm
        self.tokenizer = tokenizer
        self.source = str(source)
        self.lm.requires_grad_(False)
        self.kept = kept or tuple(range(len(base_model(lm).layers)))
        self._adapter = None
        # Maps that were folded in, by receiving layer: part of `lm`.
        self.folded: dict[int, Any] = {}
        self.static = None
        if decode_static:
            static = later("model.static_decoding", "decode_static")
            static.check_static(lm)
            self.static = static.StaticDecoding()
        self.pack = None
        if padding_free:
            self.pack = later("model.packing", "padding_free").packing_of(lm)

    @property
    def adapter(self) -> PeftModel | None:
        """PEFT's handle on the adapters inside `lm`."""
        return self._adapter

    def use_adapter(self, adapter: PeftModel | None) -> None:
        """Remember PEFT's handle."""
        # Not a property's setter: torch registers any module that is
        # assigned, and its layers are already part of `lm`.
        object.__setattr__(self, "_adapter", adapter)

    @classmethod
    def from_source(
        cls,
        source: str,
        removed: Iterable[int] | None = None,
        dtype: str = "float32",
        device: str = "cpu",
        revision: str | None = None,
        attention: str | None = "sdpa",
        gradient_checkpointing: bool = False,
        decode_static: bool = False,
        padding_free: bool = False,
    ) -> Decoder:
        """Load a decoder, kept layers only, straight to its device.

        Arguments
        ---------
        source : str
            Hub id or local folder.
        removed : Block, iterable of int or None
            Layers to leave out; their weights are never read.
        dtype : str
            "float32", "bfloat16" or "float16".
        device : str
            Where the weights go.
        revision : str or None
            Branch, tag or commit on the hub.
        attention : str or None
            transformers' attention implementation; None: the family's own.
        gradient_checkpointing : bool
            Recompute activations in training to save memory.
        decode_static : bool
            Decode in buffers of a fixed size, as one recorded graph on a
            GPU: the same text, with less time between two tokens.
        padding_free : bool
            Train on a batch as one row without padding: the same loss. With
            the package flash-attn on a GPU, attention is its own.

        Returns
        -------
        Decoder

        Raises
        ------
        ValueError
            If the dtype is unknown or the source cannot be loaded.
        TypeError
            If the decoder's family cannot be pruned or called in parts.
        """
        if dtype not in DTYPES:
            raise ValueError(
                f"dtype: {dtype!r} is none of {', '.join(DTYPES)}."
            )
        whole = source_config(source, revision).num_hidden_layers
        removed = Removal.of(removed, whole)
        lm = load_pruned(
            source,
            removed,
            revision=revision,
            dtype=DTYPES[dtype],
            device_map={"": device},
            attn_implementation=attention,
        )
        if families := checks_of(lm.config):
            families.check_calls(lm)
        # A frozen decoder has no dropout of its own in training either.
        modules: Any = lm.modules()
        for module in modules:
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0
        if gradient_checkpointing:
            lm.gradient_checkpointing_enable({"use_reentrant": False})
            # Only reentrant checkpoints need an input with a gradient; here
            # it would be computed through every layer, for nothing.
            lm.disable_input_require_grads()
        tokenizer = load_tokenizer(source, revision)
        options = decode_static, padding_free
        return cls(lm, tokenizer, source, removed.kept, *options)

    @property
    def width(self) -> int:
        """Width D of the residual stream."""
        return self.lm.config.hidden_size

    @property
    def num_layers(self) -> int:
        """Layers that are there."""
        return len(base_model(self.lm).layers)

    @property
    def whole_layers(self) -> int:
        """Layers of the source before anything was removed."""
        return max(self.kept) + 1

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.lm.lm_head.weight.dtype

    @property
    def stop_ids(self) -> list[int]:
        """Ids that end an answer: tokenizer's and generation settings'."""
        stops = {self.tokenizer.eos_token_id}
        extra = getattr(self.lm.generation_config, "eos_token_id", None)
        extra = extra if isinstance(extra, (list, tuple)) else [extra]
        stops.update(extra)
        return sorted(int(stop) for stop in stops if stop is not None)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids of shape ``[*]`` to embeddings of shape ``[*, D]``."""
        return embed(self.lm, ids)

    def hidden(self, sequence: Sequence) -> torch.Tensor:
        """Last hidden states ``[B, Q, D]``, behind the final norm."""
        return last_states(self.lm, **sequence.causal_inputs())

    def target_logits(
        self, sequence: Sequence
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``[N, V]`` and labels ``[N]`` of the N target tokens.

        Row after row, in order, and nowhere else: with a vocabulary of
        150,000 the head costs more than several layers.
        """
        sequence = self.pack(sequence) if self.pack else sequence
        h_ND, labels_N = sequence.targets_of(self.hidden(sequence))
        return logits_of(self.lm, h_ND), labels_N

    def greedy(
        self,
        sequence: Sequence,
        limits_B: torch.Tensor,
        on_rows: Callable[[list[int]], None] | None = None,
    ) -> list[list[int]]:
        """Ids that each row says (see `decoding.greedy`)."""
        # Whoever must hear of rows that leave needs them to leave.
        static = self.static if on_rows is None else None
        return greedy(
            self.lm, sequence, limits_B, self.stop_ids, on_rows, static
        )
