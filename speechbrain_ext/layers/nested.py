"""Where a model keeps its text decoder: a plain causal LM, or a speech LLM.

A speech LLM of transformers is made of an audio encoder, a projector and a
decoder, each with a configuration of its own inside the model's. `SPEECH` has
one entry for each family that is known; a further one is a further line, and
whatever the entry says is checked by the tests that walk over all of them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    PretrainedConfig,
    PreTrainedModel,
)

from speechbrain_ext.layers.lm_calls import causal_lm
from speechbrain_ext.layers.places import PLAIN, Place
from speechbrain_ext.layers.removal import layer_and_rest, renumber
from speechbrain_ext.layers.weights import fetch_file

# PEFT's name of what says that a folder holds an adapter.
ADAPTER_FILE = "adapter_config.json"
# The decoder's layers in a checkpoint, under older and newer names of parts;
# the encoder's layers have numbers, too.
NESTED = r"(?:^|\.)language_model\.(?:model\.)?layers\.(\d+)\."


@dataclass(frozen=True)
class Nested(Place):
    """Where the decoder of a speech LLM is, and what stands before it.

    Arguments
    ---------
    model_type : str
        Of the configuration that the model is made from.
    model_class : str
        Its class in transformers.
    decoder : str
        From the model to its base decoder, which has the `layers`.
    config : str
        From the model's configuration to the decoder's; "": its own.
    layer : str
        A regular expression that finds a decoder layer's number in the name
        of a tensor of the checkpoint.
    encoder : tuple of str
        Parts that hear, never trained.
    projector : tuple of str
        Parts between the encoder and the decoder, which healing may train.
    merges : str
        The part that puts sound among the words, where that is done inside
        the base decoder itself; "": done outside.
    part_of : tuple of str
        Configuration types of whole systems that hold this model beside
        others, such as one that speaks.
    part : str
        Where there: the prefix of its tensors, and of ``<part>_config``.
    apart : tuple of str
        Prefixes of the tensors of what is beside it there.
    """

    model_type: str = ""
    model_class: str = ""
    decoder: str = "model.language_model"
    config: str = "text_config"
    layer: str = NESTED
    encoder: tuple[str, ...] = ("model.audio_tower",)
    projector: tuple[str, ...] = ("model.multi_modal_projector",)
    merges: str = ""
    part_of: tuple[str, ...] = ()
    part: str = ""
    apart: tuple[str, ...] = ()

    def inner(self, model: torch.nn.Module) -> Any:
        """The base decoder of a model."""
        return model.get_submodule(self.decoder)

    def decoder_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """The decoder's configuration inside the model's."""
        return getattr(config, self.config) if self.config else config

    def with_decoder(
        self, config: PretrainedConfig, own: PretrainedConfig
    ) -> PretrainedConfig:
        """The model's configuration, with another one of its decoder."""
        if not self.config:
            return own
        config = copy.deepcopy(config)
        setattr(config, self.config, own)
        return config

    def class_of(self, config: PretrainedConfig) -> Any:
        """The class that a model of this configuration is of."""
        return getattr(transformers, self.model_class)

    def renumber(self, name: str, new_index: dict[int, int]) -> str | None:
        """A tensor's name in a model without some layers; None: not there."""
        first, _, rest = name.partition(".")
        if first in self.apart:
            return None
        if self.part and first == self.part:
            name = rest
        return renumber(name, new_index, re.compile(self.layer))

    def layer_and_rest(self, name: str) -> tuple[int | None, str]:
        """Which decoder layer a tensor belongs to, and its name in there."""
        return layer_and_rest(name, re.compile(self.layer))

    def put_configs(
        self, model: PreTrainedModel, config: PretrainedConfig
    ) -> None:
        """Let each part of a model have its configuration inside a new one."""
        own = self.decoder_config(config)
        news = {type(config): config}
        for module in self.inner(model).modules():
            if hasattr(module, "config") and type(module.config) is type(own):
                module.config = own
        if own is config:
            # Attention and norms of the other parts have configurations of theirs.
            news = {type(own): own}
        wanted: Callable = news.get
        for module in model.modules():
            new = wanted(type(getattr(module, "config", None)))
            if new is not None:
                module.config = new

    def refuse_adapter(self, source: str, revision: str | None) -> None:
        """Refuse weights that their class would put an adapter beside."""
        if fetch_file(source, ADAPTER_FILE, revision, missing_ok=True):
            raise ValueError(
                f"{source}: holds an adapter beside its weights ({ADAPTER_FILE}), "
                "which would be left out: merge it into them (PEFT's "
                "merge_and_unload) and save the model without it"
            )


# Where the model is the decoder and has the other parts inside.
FLAT = r"^(?:thinker\.)?model\.layers\.(\d+)\."

SPEECH = (
    Nested("audioflamingo3", "AudioFlamingo3ForConditionalGeneration"),
    Nested("fun_asr_nano", "FunAsrNanoForConditionalGeneration"),
    Nested("glmasr", "GlmAsrForConditionalGeneration"),
    Nested(
        "granite_speech",
        "GraniteSpeechForConditionalGeneration",
        encoder=("model.encoder",),
        projector=("model.projector",),
    ),
    Nested(
        "granite_speech_plus",
        "GraniteSpeechPlusForConditionalGeneration",
        encoder=("model.encoder",),
        projector=("model.projector",),
    ),
    Nested(
        "moss_transcribe_diarize",
        "MossTranscribeDiarizeForConditionalGeneration",
    ),
    Nested("musicflamingo", "MusicFlamingoForConditionalGeneration"),
    Nested("omniasr", "OmniASRForConditionalGeneration"),
    Nested(
        "phi4_multimodal",
        "Phi4MultimodalForCausalLM",
        decoder="model",
        config="",
        layer=FLAT,
        encoder=("model.embed_tokens_extend.audio_embed.encoder",),
        projector=(
            "model.embed_tokens_extend.audio_embed.up_proj_for_speech",
            "model.embed_tokens_extend.audio_embed.down_proj_for_speech",
        ),
        merges="model.embed_tokens_extend",
    ),
    Nested(
        "qwen2_5_omni_thinker",
        "Qwen2_5OmniThinkerForConditionalGeneration",
        layer=rf"{NESTED}|{FLAT}",
        projector=("model.audio_tower.proj",),
        part_of=("qwen2_5_omni",),
        part="thinker",
        apart=("talker", "token2wav", "code2wav"),
    ),
    Nested("qwen2_audio", "Qwen2AudioForConditionalGeneration"),
    Nested("qwen3_asr", "Qwen3ASRForConditionalGeneration"),
    Nested(
        "qwen3_omni_moe_thinker",
        "Qwen3OmniMoeThinkerForConditionalGeneration",
        layer=rf"{NESTED}|{FLAT}",
        projector=("model.audio_tower.proj1", "model.audio_tower.proj2"),
        part_of=("qwen3_omni_moe",),
        part="thinker",
        apart=("talker", "token2wav", "code2wav"),
    ),
    Nested(
        "vibevoice_asr",
        "VibeVoiceAsrForConditionalGeneration",
        encoder=(
            "model.acoustic_tokenizer_encoder",
            "model.semantic_tokenizer_encoder",
        ),
    ),
    Nested("voxtral", "VoxtralForConditionalGeneration"),
)

# Families with sound for an input that are not taken, each with its reason.
REFUSED = {
    "apertus1p5": "sound goes in as codes of its vocabulary, and no projector "
    "stands between an encoder and the decoder",
    "dots3_note": "its decoder is of the DeepSeek kind, with latent attention",
    "gemma3n": "its decoder shares keys and values between layers and hands "
    "each its own embeddings: see gemma3n_text in docs/families.md",
    "gemma4": "its decoder shares keys and values between layers and hands "
    "each its own embeddings: see gemma4_text in docs/families.md",
    "gemma4_unified": "it has no audio encoder: frames enter the decoder as "
    "they are",
    "inkling_mm_model": "it has no audio encoder, and its decoder has "
    "convolutions and relative positions of its own",
    "kyutai_speech_to_text": "sound is added to each word as it is said, not "
    "read before: there is no prompt to measure at",
    "muse_spark": "its decoder gates its residual stream and has rotary "
    "embeddings of each layer's own",
    "nemo_speechlm": "its decoder is a hybrid of attention and state-space "
    "layers, each of one kind",
    "nemotron_h_omni": "its decoder is a hybrid of attention and state-space "
    "layers, each of one kind",
    "vibevoice": "it speaks, and does not transcribe",
    "voxtral_realtime": "sound is added to each word as it is said, not read "
    "before: there is no prompt to measure at",
}


def known_types() -> dict[str, Nested]:
    """All families by configuration type, whole systems among them."""
    return {
        name: place
        for place in SPEECH
        for name in (place.model_type, *place.part_of)
    }


def speech_place(config: PretrainedConfig) -> Nested | None:
    """The entry of a speech LLM's family; None: not in the table."""
    return known_types().get(config.model_type)


def place_of(model: torch.nn.Module) -> Place:
    """Where a loaded model keeps its decoder; plain where nothing is known."""
    config = getattr(causal_lm(model), "config", None)
    place = None if config is None else speech_place(config)
    if place is None or type(causal_lm(model)).__name__ != place.model_class:
        return PLAIN
    return place


def source_place(
    config: PretrainedConfig, source: str
) -> tuple[Nested, PretrainedConfig] | None:
    """A speech LLM's entry and configuration; None for a plain causal LM.

    Refuses what is neither (TypeError).
    """
    place = speech_place(config)
    if place is not None:
        return place, own_config(place, config)
    plain = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    plain = plain and hasattr(config, "num_hidden_layers")
    if not plain and (config.model_type in REFUSED or config.sub_configs):
        raise refuse(config, source)
    return None


def own_config(place: Nested, config: PretrainedConfig) -> PretrainedConfig:
    """The model's configuration, out of a whole system's where it is one."""
    if config.model_type in place.part_of:
        return getattr(config, f"{place.part}_config")
    return config


def refuse(config: PretrainedConfig, source: str) -> TypeError:
    """Why a family of several models is not taken, and how it would be."""
    kind = config.model_type
    if kind in REFUSED:
        return TypeError(
            f"{source} is a {kind} model, which cannot be pruned here: "
            f"{REFUSED[kind]}. docs/hub-models.md lists the families that can."
        )
    return TypeError(
        f"{source} is a {kind} model, not a causal LM, and no speech LLM that "
        "is known here: give a decoder of the Llama or Qwen2 kind, or a "
        "family that docs/hub-models.md lists. Missing is where it keeps its "
        "decoder, encoder and projector: an entry of SPEECH in "
        "speechbrain_ext/layers/nested.py says that, in a line or two."
    )
