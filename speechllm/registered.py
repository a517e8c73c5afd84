"""Exports for transformers' ``pipeline("automatic-speech-recognition")``.

``import speechllm`` has this done as soon as transformers' pipelines are
there. An exported folder names nothing but the kind ``speechllm``: the code is
here, none of the folder's is run, and it is checked as `speechllm.load` does.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
)

from speechllm.kind import MODEL_TYPE, SAMPLING_RATE


class SpeechLLMConfig(PreTrainedConfig):
    """What an export's config.json says."""

    model_type = MODEL_TYPE


class SpeechLLMForSpeechSeq2Seq(PreTrainedModel):
    """An export as the pipeline calls models: waveforms in, token ids out."""

    config_class = SpeechLLMConfig
    main_input_name = "input_values"
    exported: Any

    def __init__(self, config: SpeechLLMConfig, exported: Any):
        super().__init__(config)
        self.tasks = exported.tasks
        self.exported = exported

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *_: Any,
        **options: Any,
    ) -> SpeechLLMForSpeechSeq2Seq:
        """Load an export as `speechllm.load` does."""
        source: Any = pretrained_model_name_or_path
        from speechllm.exported.model import ExportedSpeechLLM

        dtype, place = options.get("dtype"), options.get("device_map")
        exported = ExportedSpeechLLM.from_pretrained(
            source,
            dtype=None if dtype == "auto" else dtype,
            # The pipeline moves it where it is wanted.
            device=place if place not in (None, "auto") else "cpu",
            revision=options.get("revision"),
        )
        config = options.get("config") or AutoConfig.from_pretrained(
            source, trust_remote_code=False
        )
        return cls(config, exported)

    @classmethod
    def can_generate(cls) -> bool:
        """The pipeline asks."""
        return True

    @property
    def dtype(self) -> torch.dtype:
        """What waveforms are given in, whatever the weights are."""
        return torch.float32

    def generate(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        task: str | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Token ids ``[B, T]`` of what is said in waveforms ``[B, N]``.

        Greedy, as the export was scored: settings of a generation (beams,
        sampling) are passed over. `task` is one of the export's.
        """
        lengths = [input_values.shape[1]] * len(input_values)
        if attention_mask is not None:
            lengths = attention_mask.sum(dim=1).tolist()
        wavs = [
            (wav_N[:length].cpu().float(), SAMPLING_RATE)
            for wav_N, length in zip(input_values, lengths)
        ]
        tokenizer = self.exported.decoder.tokenizer
        rows = [
            tokenizer(said.text, add_special_tokens=False)["input_ids"]
            for said in self.exported.transcribe(wavs, task=task)
        ]
        ids_BT = torch.full(
            (len(rows), max(1, *map(len, rows))), padding_of(tokenizer)
        )
        for row_T, ids in zip(ids_BT, rows):
            row_T[: len(ids)] = torch.tensor(ids, dtype=torch.long)
        return ids_BT


def padding_of(tokenizer: Any) -> int:
    """The id that fills up rows: one that is left out of the text."""
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    return end if pad is None else pad


class SpeechLLMTokenizer(PreTrainedTokenizerFast):
    """Leads to the backbone's own tokenizer."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *_: Any,
        **options: Any,
    ) -> Any:
        """The tokenizer in the export's backbone folder."""
        # As the rest of what exports are read with, it takes seconds to load.
        from speechllm.exported.format import BACKBONE

        source = pretrained_model_name_or_path
        place = {"subfolder": BACKBONE, "revision": options.get("revision")}
        if os.path.isdir(source):
            source, place = os.path.join(source, BACKBONE), {}
        tokenizer = AutoTokenizer.from_pretrained(
            source, trust_remote_code=False, **place
        )
        # So that a pipeline can put several audios into one batch.
        tokenizer.padding_side = "right"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer


def register() -> None:
    """Tell transformers of the kind (once is enough, twice does no harm)."""
    AutoConfig.register(MODEL_TYPE, SpeechLLMConfig, exist_ok=True)
    AutoModelForSpeechSeq2Seq.register(
        SpeechLLMConfig, SpeechLLMForSpeechSeq2Seq, exist_ok=True
    )
    AutoTokenizer.register(
        SpeechLLMConfig, tokenizer_class=SpeechLLMTokenizer, exist_ok=True
    )
    # The pipeline tells what a model gives by its class's name.
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES[MODEL_TYPE] = (
        SpeechLLMForSpeechSeq2Seq.__name__
    )
