"""A speech LLM of the hub with the parts that training and tools know.

It stands where `speechbrain_ext.model.speech_llm.SpeechLLM` stands: what that
one calls features are here the waveforms, as the model's own processor, encoder
and projector do the rest.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from typing import Any

import torch
from transformers import AutoProcessor, BatchFeature, PreTrainedModel

from speechbrain_ext.layers.families import check_calls
from speechbrain_ext.layers.removal import Removal
from speechbrain_ext.layers.surgery import (
    drop_layers,
    load_pruned,
    source_place,
)
from speechbrain_ext.model.answers import Answer, answers_of
from speechbrain_ext.model.decoder import DTYPES, Decoder
from speechbrain_ext.model.prompt import IGNORE, Sequence, positions_from_mask
from speechbrain_ext.quiet import quiet_loading
from speechllm.hub.decoder import check_merged, known_place, merged, text_lm
from speechllm.hub.prompts import HubPrompt
from speechllm.text_lm import stored_dtype


class HubModel(torch.nn.Module):
    """A speech LLM of a family that `speechbrain_ext.layers.nested` lists.

    Its decoder is whole, or has the `kept` of the source's layers.
    """

    # As `SpeechLLM`'s: nothing to join, and no marks of ours.
    downsampling, markers = 1, None

    def __init__(
        self,
        model: PreTrainedModel,
        prompt: HubPrompt,
        source: str = "",
        kept: tuple[int, ...] | None = None,
    ):
        super().__init__()
        place = known_place(model)
        model.requires_grad_(False)
        for module in model.modules():
            # A frozen model has no dropout of its own in training either.
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if isinstance(getattr(module, "attention_dropout", None), float):
                setattr(module, "attention_dropout", 0.0)
        self.whole = model.eval()
        self.decoder = Decoder(text_lm(model), prompt.tokenizer, source, kept)
        self.projector = torch.nn.ModuleList(
            model.get_submodule(name) for name in place.projector
        )
        self.encoder: Any = None
        self.prompt = prompt

    @classmethod
    def from_source(
        cls,
        source: str,
        removed: Iterable[int] | None = None,
        dtype: str | None = "float32",
        device: str = "cpu",
        revision: str | None = None,
        words: str | None = None,
    ) -> HubModel:
        """Load a model with its processor; removed layers are never read.

        A dtype of None is the type that it is stored in.
        """
        if dtype is None:
            config = source_place(source, revision)[1]
            dtype = stored_dtype(source, config=config)
        prompt = load_prompt(source, revision, words)
        with quiet_loading():
            model = load_pruned(
                source,
                removed,
                revision=revision,
                dtype=DTYPES[dtype],
                device_map={"": device},
            )
        place = known_place(model)
        layers = len(place.inner(model).layers)
        gone = () if removed is None else tuple(removed)
        kept = Removal.of(gone, layers + len(gone)).kept
        hub = cls(model, prompt, source, kept)
        hub.check()
        return hub

    def without(self, removed: Iterable[int]) -> HubModel:
        """The same without some layers, over the same frozen weights."""
        whole = Removal.of(removed, self.decoder.num_layers)
        model = drop_layers(self.whole, whole)
        # But for what healing trains: the whole model may be its teacher.
        for name in known_place(model).projector:
            above, _, own = name.rpartition(".")
            part = copy.deepcopy(model.get_submodule(name))
            setattr(model.get_submodule(above), own, part)
        source = self.decoder.source
        return HubModel(model, self.prompt, source, whole.kept)

    def check(self) -> None:
        """Refuse a model that does something else when called in parts."""
        check_calls(self.decoder.lm)
        silence = torch.zeros(self.prompt.sample_rate // 2).numpy()
        inputs, _ = self.prompt.inputs([silence])
        check_merged(self.whole, self.decoder.lm, self._moved(inputs))

    def train(self, mode: bool = True) -> HubModel:
        """Training mode for what is new in the decoder, and nothing else."""
        super().train(mode)
        if mode:
            self.whole.eval()
            for name, module in self.decoder.named_modules():
                if "lora_" in name or ".bridges" in name:
                    module.train(mode)
        return self

    def _moved(self, inputs):
        """Inputs on the device, numbers of the sound in the model's type."""
        return BatchFeature(inputs).to(self.decoder.device, self.decoder.dtype)

    def features(
        self, wav_BN: torch.Tensor, lengths_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The waveforms, as they are."""
        return wav_BN, lengths_B

    def sequence(
        self,
        wav_BN: torch.Tensor,
        lengths_B: torch.Tensor,
        targets: list[torch.Tensor] | None = None,
        side: str = "right",
    ) -> Sequence:
        """Sound, prompt and (in training) target, as the decoder gets them."""
        pairs = zip(wav_BN.cpu(), lengths_B.tolist())
        sounds = [wav_N[:n].numpy() for wav_N, n in pairs]
        inputs, lengths = self.prompt.inputs(sounds, targets, side)
        trained = any(p.requires_grad for p in self.projector.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            reached = merged(self.whole, self._moved(inputs))
        mask_BQ = reached["attention_mask"].long()
        labels_BQ = None
        if targets is not None:
            labels_BQ = torch.full_like(mask_BQ, IGNORE)
            starts_B = mask_BQ.argmax(dim=1).tolist()
            for row, (start, n) in enumerate(zip(starts_B, lengths)):
                said, first = targets[row], start + n - 1
                labels_BQ[row, first : first + len(said)] = said
        return Sequence(
            embeds_BQD=reached["inputs_embeds"],
            mask_BQ=mask_BQ,
            positions_BQ=positions_from_mask(mask_BQ),
            prompt_lengths_B=torch.tensor(lengths, device=mask_BQ.device),
            labels_BQ=labels_BQ,
        )

    def forward(self, wav_BN, lengths_B, targets):
        """Logits ``[N, V]`` and labels ``[N]`` of N target tokens."""
        sequence = self.sequence(wav_BN, lengths_B, targets)
        return self.decoder.target_logits(sequence)

    @torch.no_grad()
    def answer(
        self,
        wav_BN: torch.Tensor,
        lengths_B: torch.Tensor,
        limits_B: torch.Tensor,
    ) -> list[Answer]:
        """What it says to each waveform, greedily."""
        sequence = self.sequence(wav_BN, lengths_B, side="left")
        said = self.decoder.greedy(sequence, limits_B)
        return answers_of(self.prompt, said, limits_B)


def load_prompt(
    source: str, revision: str | None = None, words: str | None = None
) -> HubPrompt:
    """How a model is asked, with the processor that it brings along."""
    try:
        processor = AutoProcessor.from_pretrained(
            source, revision=revision, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        why = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{source}: its processor cannot be loaded ({why}): a folder of a "
            "speech LLM holds processor_config.json or "
            "preprocessor_config.json, and its tokenizer"
        ) from error
    if not hasattr(processor, "audio_token"):
        kind = type(processor).__name__
        beside = os.path.basename(os.path.normpath(source))
        raise TypeError(
            f"{beside}: its {kind} puts no sound among words: give a speech "
            "LLM with the processor of its family"
        )
    return HubPrompt(processor, words)
