"""How each family is asked: sound, prompt and target as a model's inputs.

The words around the sound are the model's own: its processor's transcription
request where it has one, else its chat template, else what the user writes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from speechbrain_ext.model.prompt import Prompt

SPEECH = "{speech}"
# What is asked where a model has no request of its own.
WORDS = "Transcribe the speech to text."
# What a processor gives of the words; the rest is of the sound.
TEXT = ("input_ids", "attention_mask")


class HubPrompt(Prompt):
    """A model's processor, and the words that it is asked with.

    Words with ``{speech}`` in them are all that stands around the sound, word
    for word; None: the model's own request.
    """

    def __init__(self, processor: Any, words: str | None = None):
        # Text alone is begun as texts begin; the processor puts down the rest.
        begun = processor.tokenizer("a")["input_ids"][:1]
        before = torch.tensor(begun, dtype=torch.long)
        super().__init__(before, before[:0], processor.tokenizer)
        self.processor, self.words = processor, words
        self.text = request(processor, words)

    @property
    def sample_rate(self) -> int:
        """Samples in a second that the model hears."""
        return ears_of(self.processor).sampling_rate

    def spell(self, text: str, verbose: bool = False) -> dict:
        """Text as ids, as text is begun; Mistral's tokenizer is never told."""
        del verbose
        return self.tokenizer(text)

    def inputs(
        self,
        sounds: Sequence[np.ndarray],
        targets: Sequence[torch.Tensor] | None = None,
        side: str = "right",
    ) -> tuple[dict, list[int]]:
        """A model's inputs, and how many tokens of each row are the prompt.

        Targets stand behind their prompts but for their last token, which is
        predicted and never read.
        """
        given = dict(self._processed(sounds))
        for name in getattr(self.processor, "unused_input_names", ()):
            given.pop(name, None)
        masks = given["attention_mask"].bool()
        rows = [ids[mask] for ids, mask in zip(given["input_ids"], masks)]
        lengths = [len(row) for row in rows]
        if targets is not None:
            pairs = zip(rows, targets)
            rows = [torch.cat([row, said[:-1].cpu()]) for row, said in pairs]
        padding = self.tokenizer.pad_token_id
        padding = self.tokenizer.eos_token_id if padding is None else padding
        ones = [torch.ones(len(row), dtype=torch.long) for row in rows]
        for name, values, fill in zip(TEXT, (rows, ones), (padding or 0, 0)):
            given[name] = pad_sequence(
                values, batch_first=True, padding_value=fill, padding_side=side
            )
        return given, lengths

    def _processed(self, sounds):
        """What the processor makes of the prompts."""
        sounds = [np.asarray(one, dtype=np.float32) for one in sounds]
        if hasattr(self.processor, "_retrieve_input_features"):
            return voxtral(self.processor, self.text, sounds)
        hear = dict(return_tensors="pt")
        heard = inspect.signature(ears_of(self.processor).__call__).parameters
        if "sampling_rate" in heard:
            hear["sampling_rate"] = self.sample_rate
        say = dict(padding=True, return_tensors="pt", padding_side="left")
        first = self.tokenizer.bos_token
        if first and self.text.startswith(first):
            say["add_special_tokens"] = False
        return self.processor(
            text=[self.text] * len(sounds),
            audio=sounds,
            text_kwargs=say,
            audio_kwargs=hear,
        )


def ears_of(processor: Any) -> Any:
    """The part of a processor that hears."""
    for name in ("feature_extractor", "audio_processor"):
        if getattr(processor, name, None) is not None:
            return getattr(processor, name)
    raise TypeError(f"{type(processor).__name__} has no part that hears")


def request(processor: Any, words: str | None = None) -> str:
    """A prompt as text, in which one token stands for the sound."""
    mark, text = processor.audio_token, words
    # Some processors leave it to their tokenizer.
    template = getattr(processor, "chat_template", None)
    template = template or getattr(processor.tokenizer, "chat_template", None)
    if words is not None and SPEECH in words:
        text = words.replace(SPEECH, mark)
    elif hasattr(processor, "_retrieve_input_features"):
        text = f"[INST][BEGIN_AUDIO]{mark}{words or ''}[/INST]"
        text += "" if words else "[TRANSCRIBE]"
    elif words is None and hasattr(processor, "apply_transcription_request"):
        silence = np.zeros(1600, dtype=np.float32)
        text = processor.apply_transcription_request(silence, tokenize=False)
        text = text if isinstance(text, str) else text[0]
    elif template:
        asked = [{"type": "audio"}, {"type": "text", "text": words or WORDS}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": asked}],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=True,
        )
    found = 0 if text is None else text.count(mark)
    if text is None or found != 1:
        raise ValueError(
            f"prompt: {text!r} has {found} places for the sound ({mark}), and "
            "one is wanted: give the whole prompt with --prompt, {speech} "
            "where the sound stands, as the model's card has it."
        )
    return text


def voxtral(processor: Any, text: str, sounds: list) -> dict:
    """Voxtral's inputs: its processor takes sound in conversations alone.

    Each stretch of 30 seconds becomes 375 tokens, whatever is in it.
    """
    before, after = text.split(processor.audio_token)
    hear = dict(processor.audio_kwargs)
    most = hear.pop("max_source_positions")
    rows, features = [], []
    for sound in sounds:
        x_CMT = processor._retrieve_input_features([sound], most, **hear)
        count = len(x_CMT) * (most // 8)
        ids = _ids(processor.tokenizer, before, first=True)
        ids += [processor.audio_token_id] * count
        rows.append(torch.tensor(ids + _ids(processor.tokenizer, after)))
        features.append(x_CMT)
    ones = [torch.ones_like(row) for row in rows]
    return {
        "input_ids": pad_sequence(rows, batch_first=True),
        "attention_mask": pad_sequence(ones, batch_first=True),
        "input_features": torch.cat(features),
    }


def _ids(tokenizer, text, first=False):
    """Ids of text with control tokens in brackets."""
    ids = [tokenizer.bos_token_id] if first else []
    for place, part in enumerate(re.split(r"(\[[^]]*\])", text)):
        if place % 2:
            ids.append(tokenizer.convert_tokens_to_ids(part))
        elif part:
            ids += tokenizer(part, add_special_tokens=False)["input_ids"]
    return ids
