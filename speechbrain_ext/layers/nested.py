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

from speechbrain_ext.layers.lm_calls import base_model, causal_lm
from speechbrain_ext.layers.removal import LAYER, layer_and_rest, renumber

# The decoder's layers in a checkpoint, under older and newer names of parts;
# the encoder's layers have numbers, too.
NESTED = r"(?:^|\.)language_model\.(?:model\.)?layers\.(\d+)\."


@dataclass(frozen=True)
class Place:
    """Where the decoder of a model is, and what stands before it.

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
        if not self.decoder:
            return base_model(model)
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
        if self.model_class:
            return getattr(transformers, self.model_class)
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]

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


PLAIN = Place(
    decoder="", config="", layer=LAYER.pattern, encoder=(), projector=()
)

# Where the model is the decoder and has the other parts inside.
FLAT = r"^(?:thinker\.)?model\.layers\.(\d+)\."

SPEECH = (
    Place("audioflamingo3", "AudioFlamingo3ForConditionalGeneration"),
    Place("fun_asr_nano", "FunAsrNanoForConditionalGeneration"),
    Place("glmasr", "GlmAsrForConditionalGeneration"),
    Place(
        "granite_speech",
        "GraniteSpeechForConditionalGeneration",
        encoder=("model.encoder",),
        projector=("model.projector",),
    ),
    Place(
        "granite_speech_plus",
        "GraniteSpeechPlusForConditionalGeneration",
        encoder=("model.encoder",),
        projector=("model.projector",),
    ),
    Place(
        "moss_transcribe_diarize",
        "MossTranscribeDiarizeForConditionalGeneration",
    ),
    Place("musicflamingo", "MusicFlamingoForConditionalGeneration"),
    Place("omniasr", "OmniASRForConditionalGeneration"),
    Place(
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
    Place(
        "qwen2_5_omni_thinker",
        "Qwen2_5OmniThinkerForConditionalGeneration",
        layer=rf"{NESTED}|{FLAT}",
        projector=("model.audio_tower.proj",),
        part_of=("qwen2_5_omni",),
        part="thinker",
        apart=("talker", "token2wav", "code2wav"),
    ),
    Place("qwen2_audio", "Qwen2AudioForConditionalGeneration"),
    Place("qwen3_asr", "Qwen3ASRForConditionalGeneration"),
    Place(
        "qwen3_omni_moe_thinker",
        "Qwen3OmniMoeThinkerForConditionalGeneration",
        layer=rf"{NESTED}|{FLAT}",
        projector=("model.audio_tower.proj1", "model.audio_tower.proj2"),
        part_of=("qwen3_omni_moe",),
        part="thinker",
        apart=("talker", "token2wav", "code2wav"),
    ),
    Place(
        "vibevoice_asr",
        "VibeVoiceAsrForConditionalGeneration",
        encoder=(
            "model.acoustic_tokenizer_encoder",
            "model.semantic_tokenizer_encoder",
        ),
    ),
    Place("voxtral", "VoxtralForConditionalGeneration"),
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


def known_types() -> dict[str, Place]:
    """All families by configuration type, whole systems among them."""
    return {
        name: place
        for place in SPEECH
        for name in (place.model_type, *place.part_of)
    }


def speech_place(config: PretrainedConfig) -> Place | None:
    """The entry of a speech LLM's family; None: not in the table."""
    return known_types().get(config.model_type)


def place_of(model: torch.nn.Module) -> Place:
    """Where a loaded model keeps its decoder; plain where nothing is known."""
    config = getattr(causal_lm(model), "config", None)
    place = PLAIN if config is None else speech_place(config)
    if place is None or type(causal_lm(model)).__name__ != place.model_class:
        return PLAIN
    return place


def own_config(place: Place, config: PretrainedConfig) -> PretrainedConfig:
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


def put_configs(
    model: PreTrainedModel, place: Place, config: PretrainedConfig
) -> None:
    """Let each part of a model have its configuration inside a new one."""
    own = place.decoder_config(config)
    news = {type(config): config}
    for module in place.inner(model).modules():
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
