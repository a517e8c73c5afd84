"""The tokenizer of the mini decoders, and the form of what they read.

A decoder reads ``SOURCE + PROMPT + " " + TARGET + <eos>``, for example
``anna reads\\ntranscribe: anna reads<eos>``. The prompt ends at the colon: the
space belongs to the target's first token, so that tokenising the three parts
apart gives what tokenising the whole gives. Transcripts are in the spoken
form; translations keep case and punctuation.
"""

from __future__ import annotations

import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from speechllm.mini_world.corpus.shapes import LANGUAGES
from speechllm.mini_world.corpus.text import draw_sentences, spoken_form

PROMPTS = {
    "transcribe": "\ntranscribe:",
    "to-german": "\ntranslate to german:",
    "to-english": "\ntranslate to english:",
}
VOCABULARY = 768
EOS = "<|endoftext|>"
BOS = "<|begin_of_text|>"


def train_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the three languages, as a Hugging Face tokenizer."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[EOS, BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_tokenizer_texts(), trainer)
    named = {"eos_token": EOS, "pad_token": EOS}
    if family == "Llama":
        named = {"bos_token": BOS, "eos_token": EOS}
        core.post_processor = TemplateProcessing(
            single=f"{BOS} $A",
            pair=f"{BOS} $A {BOS} $B",
            special_tokens=[(BOS, core.token_to_id(BOS))],
        )
    return PreTrainedTokenizerFast(tokenizer_object=core, **named)


def _tokenizer_texts():
    """What the merges are counted on: both forms of each language."""
    for sentence in draw_sentences("train", 3000, seed=1):
        for language in LANGUAGES:
            text = getattr(sentence, language)
            yield " " + text
            yield " " + spoken_form(text)
    for prompt in PROMPTS.values():
        for _ in range(300):
            yield prompt


class Segmenter:
    """Cuts text into tokens, at will into smaller ones than BPE would."""

    CUTS = 12

    def __init__(self, tokenizer, seed):
        self.core = tokenizer.backend_tokenizer
        self.vocabulary = tokenizer.get_vocab()
        self.rng = random.Random(seed)
        self.known = {}

    def exact(self, text: str) -> list[int]:
        """Token ids as the tokenizer itself gives, without begin token."""
        return self.core.encode(text, add_special_tokens=False).ids

    def noisy(self, text: str, dropout: float) -> list[int]:
        """Token ids with merges left out."""
        tokens = []
        for word, _ in self.core.pre_tokenizer.pre_tokenize_str(text):
            cuts = self.known.setdefault((word, dropout), [])
            if len(cuts) < self.CUTS:
                cuts.append(self._cut(word, dropout))
            tokens += self.rng.choice(cuts)
        return tokens

    def _cut(self, word, dropout):
        """One segmentation of a word: greedy over the longest kept pieces."""
        tokens, start = [], 0
        while start < len(word):
            lengths = range(len(word) - start, 0, -1)
            for length in lengths:
                token = self.vocabulary.get(word[start : start + length])
                if token is None:
                    continue
                if length == 1 or self.rng.random() >= dropout:
                    break
            tokens.append(token)
            start += length
        return tokens
