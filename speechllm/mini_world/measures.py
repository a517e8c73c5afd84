"""How good a mini model is: loss, whole sentences right, word errors."""

import torch

from speechbrain_ext.layers.residual import target_loss as nll
from speechllm.mini_world.noisy_text import TextTasks, collate
from speechllm.mini_world.text import draw_sentences


def target_loss(model, tokens_BQ, labels_BQ, embeds_BQD=None):
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
    return nll(logits, labels, reduction="mean"), right_BQ


@torch.no_grad()
def exactness(model, tokenizer, count=100):
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
        sentences = draw_sentences("dev-clean", count, seed=2)
        examples = [tasks.example(task, language, s, noise) for s in sentences]
        tokens, labels, _ = collate(examples, tokenizer.eos_token_id)
        _, right = target_loss(model, tokens, labels)
        scores[name] = round(100 * right.all(1).float().mean().item(), 1)
    return scores


def word_error_rate(hypotheses, references):
    """Word errors per hundred reference words."""
    errors = words = 0
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        wanted = reference.split()
        row = list(range(len(wanted) + 1))
        for i, word in enumerate(hypothesis.split(), start=1):
            last, row[0] = row[0], i
            for j, other in enumerate(wanted, start=1):
                cost = last + (word != other)
                last = row[j]
                row[j] = min(cost, row[j] + 1, row[j - 1] + 1)
        errors += row[-1]
        words += len(wanted)
    return 100 * errors / words
