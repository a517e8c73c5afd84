"""Pretraining of the mini decoders: real architectures, few parameters."""

from __future__ import annotations

import math

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from speechbrain_ext.layers import residual
from speechbrain_ext.layers.lm_calls import CausalLM
from speechllm.mini_world.corpus.text import draw_sentences
from speechllm.mini_world.pretrain.noisy_text import TextTasks, collate
from speechllm.mini_world.pretrain.tokens import train_tokenizer
from speechllm.mini_world.pretrain.training import Training, load_weights


def build_decoder(
    family: str,
    tokenizer,
    layers: int = 12,
    width: int = 128,
    residual_scaling: bool = False,
) -> torch.nn.Module:
    """A decoder with random weights."""
    config = AutoConfig.for_model(
        family.lower(),
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
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    if residual_scaling:
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight /= math.sqrt(2 * layers)
                layer.mlp.down_proj.weight /= math.sqrt(2 * layers)
    return model


def spoil_embeddings(
    embeds_BQD: torch.Tensor,
    source_BQ: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
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


def target_loss(
    model: CausalLM,
    tokens_BQ: torch.Tensor,
    labels_BQ: torch.Tensor,
    embeds_BQD: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy and argmax at the target positions only."""
    if embeds_BQD is None:
        embeds_BQD = model.get_input_embeddings()(tokens_BQ)
    # Padding stands on the right: causal attention never looks at it.
    hidden = model.model(inputs_embeds=embeds_BQD, use_cache=False)
    chosen = labels_BQ >= 0
    logits = model.lm_head(hidden.last_hidden_state[chosen])
    labels = labels_BQ[chosen]
    right_BQ = torch.ones_like(chosen)
    right_BQ[chosen] = logits.argmax(-1) == labels
    return residual.target_loss(logits, labels, "mean"), right_BQ


@torch.no_grad()
def exactness(model: torch.nn.Module, tokenizer) -> dict[str, float]:
    """Share of unseen sentences that greedy decoding gets wholly right."""
    model.eval()
    tasks = TextTasks(tokenizer, "dev-clean", 1, seed=1)
    wanted = {
        "copy": ("transcribe", "en", 0.0),
        "noisy_copy": ("transcribe", "en", 1.0),
        "en_de": ("to-german", "en", 0.0),
        "fr_en": ("to-english", "fr", 0.0),
        "noisy_en_de": ("to-german", "en", 1.0),
        "noisy_fr_en": ("to-english", "fr", 1.0),
    }
    scores = {}
    for name, (task, language, noise) in wanted.items():
        sentences = draw_sentences("dev-clean", 100, seed=2)
        examples = [tasks.example(task, language, s, noise) for s in sentences]
        tokens, labels, _ = collate(examples, tokenizer.eos_token_id)
        _, right = target_loss(model, tokens, labels)
        scores[name] = round(100 * right.all(1).float().mean().item(), 1)
    return scores


class DecoderTraining(Training):
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
        super().__init__(output, steps, save_every, stopped_at)
        torch.manual_seed(seed)
        self.batch = batch
        self.tokenizer = train_tokenizer(family)
        self.model = build_decoder(family, self.tokenizer, **shape)
        self.ramp = 1 if start_from else 400
        if start_from:
            load_weights(self.model, start_from)
        self.tasks = TextTasks(self.tokenizer, "train", sentences, seed)
        self.generator = torch.Generator().manual_seed(seed)
        parameters = self.model.parameters()
        self.optimise(parameters, learning_rate, 0.95, 0.05)
        self.waiting = []

    def saved(self) -> tuple:
        """The parts of a model's folder."""
        return self.model, self.tokenizer

    def figures(self) -> dict:
        """Whole sentences right, by task."""
        return exactness(self.model, self.tokenizer)

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

    def next_loss(self) -> torch.Tensor:
        """The loss of the next batch."""
        if not self.waiting:
            self.waiting = self._batches()
        examples = self.waiting.pop()
        tokens, labels, source = collate(examples, self.tokenizer.eos_token_id)
        self.model.train()
        embeds = self.model.get_input_embeddings()(tokens)
        embeds = spoil_embeddings(embeds, source, self.generator)
        return target_loss(self.model, tokens, labels, embeds)[0]
