"""Pretraining of the mini decoders: real architectures, few parameters."""

import json
import math
import time

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from speechllm.mini_world.folders import load_weights, save
from speechllm.mini_world.measures import exactness, target_loss
from speechllm.mini_world.noisy_text import TextTasks, collate
from speechllm.mini_world.tokens import train_tokenizer

FAMILIES = {
    "Qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "Llama": (LlamaConfig, LlamaForCausalLM),
}


def build_decoder(
    family, tokenizer, layers=12, width=128, residual_scaling=False
):
    """A decoder with random weights."""
    config_class, model_class = FAMILIES[family]
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 64,
        max_position_embeddings=1024,
        # Small models learn many times faster than from the usual 0.02.
        initializer_range=0.06,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attention_dropout=0.0,
    )
    model = model_class(config)
    if residual_scaling:
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight /= math.sqrt(2 * layers)
                layer.mlp.down_proj.weight /= math.sqrt(2 * layers)
    return model


def spoil_embeddings(embeds_BQD, source_BQ, generator):
    """Move the source's embeddings away from those of exact tokens."""
    rows = embeds_BQD.shape[0]
    chance = torch.rand(3, rows, 1, 1, generator=generator)
    spoilt = (chance[0] < 0.6).float()
    before = embeds_BQD.roll(1, dims=1)
    after = embeds_BQD.roll(-1, dims=1)
    share = 0.3 * spoilt * chance[1]
    mixed = (1 - 2 * share) * embeds_BQD + share * (before + after)
    size = embeds_BQD.detach().pow(2).mean().sqrt()
    noise = torch.randn(embeds_BQD.shape, generator=generator) * size
    mixed = mixed + 0.5 * spoilt * chance[2] * noise
    return torch.where(source_BQ[:, :, None], mixed, embeds_BQD)


class DecoderTraining:
    """The pretraining of one decoder."""

    def __init__(
        self,
        family,
        output,
        steps=4000,
        batch=28,
        learning_rate=3e-3,
        seed=0,
        save_every=250,
        sentences=30000,
        start_from=None,
        stopped_at=None,
        **shape,
    ):
        torch.manual_seed(seed)
        self.output, self.steps, self.batch = output, steps, batch
        self.last = stopped_at or steps
        self.save_every = save_every
        self.tokenizer = train_tokenizer(family)
        self.model = build_decoder(family, self.tokenizer, **shape)
        self.ramp = 1 if start_from else 400
        if start_from:
            load_weights(self.model, start_from)
        self.tasks = TextTasks(self.tokenizer, "train", sentences, seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=learning_rate,
            betas=(0.9, 0.95),
            weight_decay=0.05,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, self._rate
        )
        self.waiting = []

    def _rate(self, step):
        """Linear over 100 steps at most, half a cosine to a fiftieth."""
        progress = min(1.0, step / self.steps)
        cosine = 0.51 + 0.49 * math.cos(math.pi * progress)
        return cosine * min(1.0, (step + 1) / min(100, self.steps / 5))

    def run(self):
        """Train, log and save."""
        log, losses, start = [], [], time.time()
        for step in range(1, self.last + 1):
            losses.append(self.step())
            if step % 50 == 0 or step == self.last:
                entry = {
                    "step": step,
                    "loss": round(sum(losses) / len(losses), 4),
                    "seconds": round(time.time() - start),
                }
                losses = []
                if step % self.save_every == 0 or step == self.last:
                    entry |= exactness(self.model, self.tokenizer)
                    save(self.model, self.tokenizer, self.output)
                print(json.dumps(entry), flush=True)
                log.append(entry)
        return log

    def _batches(self, pool=8):
        """A few batches of like lengths, in any order: little padding."""
        # Spoilt sources come in slowly: copying has to be found first.
        done = self.schedule.last_epoch + 1
        noise = 0.65 * min(1.0, done / self.ramp)
        count = pool * self.batch
        drawn = [self.tasks.draw(noise) for _ in range(count)]
        drawn.sort(key=lambda e: len(e.source) + len(e.target))
        cut = [drawn[i : i + self.batch] for i in range(0, count, self.batch)]
        self.tasks.rng.shuffle(cut)
        return cut

    def step(self):
        """One optimiser step."""
        if not self.waiting:
            self.waiting = self._batches()
        examples = self.waiting.pop()
        tokens, labels, source = collate(examples, self.tokenizer.eos_token_id)
        self.model.train()
        embeds = self.model.get_input_embeddings()(tokens)
        embeds = spoil_embeddings(embeds, source, self.generator)
        loss, _ = target_loss(self.model, tokens, labels, embeds)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        return loss.item()
