"""Pretraining of the mini encoders by CTC over characters."""

import json
import math
import os
import time

import torch

from speechllm.mini_world.ctc_data import (
    SpeechBatches,
    held_out_speech,
    pad,
    pretraining_speech,
    speak_once,
)
from speechllm.mini_world.folders import load_weights, save
from speechllm.mini_world.front_ends import FRONT_ENDS, WIDTH
from speechllm.mini_world.measures import word_error_rate
from speechllm.mini_world.tokens import all_words

# Share of the steps over which augmentation grows to its full strength.
RAMP = 0.3


def alphabet():
    """Every character of the three languages' spoken forms."""
    found = set(" ")
    for words in all_words().values():
        found.update("".join(words))
    return "".join(sorted(found))


class EncoderTraining:
    """The CTC pretraining of one encoder."""

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
        torch.manual_seed(seed)
        self.output, self.steps, self.save_every = output, steps, save_every
        self.net = FRONT_ENDS[kind]()
        self.alphabet = alphabet()
        self.head = torch.nn.Linear(WIDTH, len(self.alphabet) + 1)
        self.batches, self.held_out = self._speech(
            languages, scratch, seed, held_out
        )
        ramp = 0 if start_from else int(RAMP * steps)
        self.stream = self.batches.endless(seconds, seed, ramp)
        parameters = [*self.net.parameters(), *self.head.parameters()]
        self.parameters = [p for p in parameters if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=learning_rate,
            betas=(0.9, 0.98),
            weight_decay=0.01,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, self._rate
        )
        if start_from:
            load_weights(self.net.model, start_from)
            self._fit_head()

    def _fit_head(self, steps=150):
        """Train the head alone: it is not saved with the encoder."""
        optimizer = torch.optim.AdamW(self.head.parameters(), lr=1e-2)
        learning = [p for p in self.net.parameters() if p.requires_grad]
        for parameter in learning:
            parameter.requires_grad_(False)
        for _ in range(steps):
            self._loss(*next(self.stream)).backward()
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

    def _rate(self, step):
        """Linear over 200 steps at most, half a cosine to a fiftieth."""
        progress = min(1.0, step / self.steps)
        cosine = 0.51 + 0.49 * math.cos(math.pi * progress)
        return cosine * min(1.0, (step + 1) / min(200, self.steps / 5))

    def run(self):
        """Train, log and save."""
        log, losses, start = [], [], time.time()
        for step in range(1, self.steps + 1):
            losses.append(self.step())
            if step % 50 == 0 or step == self.steps:
                entry = {
                    "step": step,
                    "loss": round(sum(losses) / len(losses), 4),
                    "seconds": round(time.time() - start),
                }
                losses = []
                if step % self.save_every == 0 or step == self.steps:
                    entry |= self.errors()
                    save(self.net.model, self.net.extractor, self.output)
                print(json.dumps(entry), flush=True)
                log.append(entry)
        return log

    def step(self):
        """One optimiser step."""
        loss = self._loss(*next(self.stream))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        return loss.item()

    def _loss(self, wavs, labels):
        self.net.train()
        features, frames = self.net(wavs)
        labels, lengths = pad([torch.tensor(row) for row in labels])
        return torch.nn.functional.ctc_loss(
            self.head(features).log_softmax(-1).transpose(0, 1),
            labels,
            frames,
            lengths,
            zero_infinity=True,
        )

    @torch.no_grad()
    def errors(self):
        """Word error rate of greedy CTC on each held-out set."""
        self.net.eval()
        scores = {}
        for name, speech in self.held_out.items():
            heard = [
                self._recognise(speech.clean(i))
                for i in range(len(speech.wavs))
            ]
            scores[name] = round(word_error_rate(heard, speech.texts), 1)
        return scores

    def _recognise(self, wav):
        features, frames = self.net([wav])
        best = self.head(features[0, : frames[0]]).argmax(-1)
        symbols = best.unique_consecutive().tolist()
        return "".join(self.alphabet[s - 1] for s in symbols if s)
