"""Examples that make a decoder fit to read what a projector will give it.

Speech arrives as projected frames, some 17 a second: several to a token, some
of them silence, none exactly a token's embedding. The sources are spoilt in
the same way: tokens cut down to characters, repeated, mixed with fillers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from speechllm.mini_world.corpus.shapes import LANGUAGES, Sentence
from speechllm.mini_world.corpus.text import (
    draw_sentences,
    draw_word_list,
    spoken_form,
)
from speechllm.mini_world.pretrain.tokens import PROMPTS, Segmenter

# Task, source language, share. The rest, a quarter, copies word lists.
TASKS = (
    ("transcribe", "en", 0.22),
    ("transcribe", "de", 0.05),
    ("transcribe", "fr", 0.05),
    ("to-german", "en", 0.21),
    ("to-english", "fr", 0.21),
    ("to-english", "de", 0.06),
)
TARGET_LANGUAGE = {"to-german": "de", "to-english": "en"}
IGNORED = -100


@dataclass
class Example:
    """Token ids of one example."""

    source: list
    prompt: list
    target: list


class TextTasks:
    """An endless supply of examples."""

    def __init__(self, tokenizer, split, count, seed):
        self.rng = random.Random(seed)
        self.segment = Segmenter(tokenizer, seed)
        self.eos = tokenizer.eos_token_id
        self.bos = tokenizer.bos_token_id
        self.sentences = draw_sentences(split, count, seed)
        fillers = [" ", ".", ",", "\n", " the"]
        self.fillers = [self.segment.exact(f)[0] for f in fillers]
        self.vocabulary = len(tokenizer)

    def draw(self, noise: float) -> Example:
        """One example."""
        dice = self.rng.random()
        for task, language, share in TASKS:
            dice -= share
            if dice < 0:
                sentence = self.rng.choice(self.sentences)
                return self.example(task, language, sentence, noise)
        # English counts twice: it is what most of the speech will be in.
        language = self.rng.choice(("en",) + LANGUAGES)
        text = draw_word_list(language, self.rng)
        return self._assemble(text, "transcribe", text, noise)

    def example(
        self, task: str, language: str, sentence: Sentence, noise: float
    ) -> Example:
        """The example of a given sentence."""
        source = getattr(sentence, language)
        target = getattr(sentence, TARGET_LANGUAGE.get(task, language))
        if task == "transcribe":
            target = spoken_form(target)
        if noise == 0 or self.rng.random() < 0.75:
            source = spoken_form(source)
        return self._assemble(source, task, target, noise)

    def _assemble(self, source, task, target, noise):
        exact = self.segment.exact
        if self.rng.random() < noise:
            tokens = self._spoil(source)
        else:
            tokens = exact(source)
        if self.bos is not None and (noise == 0 or self.rng.random() < 0.75):
            tokens = [self.bos] + tokens
        return Example(
            tokens, exact(PROMPTS[task]), exact(" " + target) + [self.eos]
        )

    def _spoil(self, text):
        """Cut into small tokens, repeat some, put fillers between."""
        rng = self.rng
        tokens = self.segment.noisy(text, rng.choice((0.1, 0.4, 0.8, 1.0)))
        repeat = rng.uniform(0, 0.5)
        fill, filler = rng.uniform(0, 0.35), rng.choice(self.fillers)
        wrong = rng.uniform(0, 0.04)
        spoilt = []
        for token in tokens:
            if rng.random() < wrong:
                token = rng.randrange(self.vocabulary)
            spoilt.append(token)
            while rng.random() < repeat:
                spoilt.append(token)
            while rng.random() < fill:
                spoilt.append(filler)
        return spoilt[:200]


def collate(
    examples: list[Example], pad: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pad examples on the right."""
    parts = [(e.source, e.prompt, e.target) for e in examples]
    longest = max(sum(map(len, p)) for p in parts)
    tokens_BQ = torch.full((len(parts), longest), pad)
    labels_BQ = torch.full((len(parts), longest), IGNORED)
    source_BQ = torch.zeros((len(parts), longest), dtype=torch.bool)
    for row, (source, prompt, target) in enumerate(parts):
        ids = torch.tensor(source + prompt + target)
        tokens_BQ[row, : len(ids)] = ids
        start = len(source) + len(prompt) - 1
        labels_BQ[row, start : start + len(target)] = ids[start + 1 :]
        source_BQ[row, : len(source)] = True
    return tokens_BQ, labels_BQ, source_BQ
