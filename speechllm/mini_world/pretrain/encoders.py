"""Pretraining of the mini encoders by CTC over characters."""

from __future__ import annotations

import os

import torch

from speechbrain_ext.scores.words import wer
from speechllm.mini_world.corpus.shapes import LANGUAGES
from speechllm.mini_world.corpus.text import words
from speechllm.mini_world.pretrain.ctc_data import (
    SpeechBatches,
    held_out_speech,
    pretraining_speech,
    speak_once,
)
from speechllm.mini_world.pretrain.front_ends import FRONT_ENDS, WIDTH
from speechllm.mini_world.pretrain.training import Training, load_weights

# Share of the steps over which augmentation grows to its full strength.
RAMP = 0.3


def alphabet() -> str:
    """Every character of the three languages' spoken forms."""
    heard = [word for language in LANGUAGES for word in words(language)]
    return "".join(sorted({" ", *"".join(heard)}))


class EncoderTraining(Training):
    """The CTC pretraining of one encoder."""

    WARMUP = 200

    def __init__(
        self,
        kind,
        languages,
        output,
        scratch,
        steps=5000,
        seconds=48,
        learning_rate=2e-3,
        seed=0,
        save_every=500,
        held_out=60,
        start_from=None,
    ):
        super().__init__(output, steps, save_every)
        torch.manual_seed(seed)
        self.net = FRONT_ENDS[kind]()
        self.alphabet = alphabet()
        self.head = torch.nn.Linear(WIDTH, len(self.alphabet) + 1)
        self.batches, self.held_out = self._speech(
            languages, scratch, seed, held_out
        )
        ramp = 0 if start_from else int(RAMP * steps)
        self.stream = self.batches.endless(seconds, seed, ramp)
        parameters = [*self.net.parameters(), *self.head.parameters()]
        self.optimise(parameters, learning_rate, 0.98, 0.01)
        if start_from:
            load_weights(self.net.model, start_from)
            self._fit_head()

    def _fit_head(self):
        """Train the head alone: it is not saved with the encoder."""
        optimizer = torch.optim.AdamW(self.head.parameters(), lr=1e-2)
        learning = [p for p in self.net.parameters() if p.requires_grad]
        for parameter in learning:
            parameter.requires_grad_(False)
        for _ in range(150):
            self.next_loss().backward()
            optimizer.step()
            optimizer.zero_grad()
        for parameter in learning:
            parameter.requires_grad_(True)

    def _speech(self, languages, scratch, seed, held_out):
        plan, tests = [], {}
        for language, count in languages.items():
            own = pretraining_speech(scratch, language, count, seed)
            speak_once(own, os.path.join(scratch, f"plan-{language}"))
            plan += own
            for split in ("dev-clean", "dev-other"):
                own = held_out_speech(scratch, split, language, held_out)
                name = f"{language} {split}"
                speak_once(own, os.path.join(scratch, f"plan {name}"))
                tests[name] = SpeechBatches(own, self.alphabet)
        return SpeechBatches(plan, self.alphabet), tests

    def saved(self) -> tuple:
        """The parts of a model's folder."""
        return self.net.model, self.net.extractor

    def next_loss(self) -> torch.Tensor:
        """The loss of the next batch."""
        return self._loss(*next(self.stream))

    def _loss(self, wavs, labels):
        self.net.train()
        features, frames = self.net(wavs)
        lengths = torch.tensor([len(row) for row in labels])
        labels = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row) for row in labels], batch_first=True
        )
        return torch.nn.functional.ctc_loss(
            self.head(features).log_softmax(-1).transpose(0, 1),
            labels,
            frames,
            lengths,
            zero_infinity=True,
        )

    @torch.no_grad()
    def figures(self) -> dict:
        """Word error rate of greedy CTC on each held-out set."""
        self.net.eval()
        scores = {}
        for name, speech in self.held_out.items():
            heard = [
                self._recognise(speech.clean(i))
                for i in range(len(speech.wavs))
            ]
            pairs = zip(speech.texts, heard, strict=True)
            scores[name] = round(wer(pairs, normalise=None), 1)
        return scores

    def _recognise(self, wav):
        features, frames = self.net([wav])
        best = self.head(features[0, : frames[0]]).argmax(-1)
        symbols = best.unique_consecutive().tolist()
        return "".join(self.alphabet[s - 1] for s in symbols if s)
