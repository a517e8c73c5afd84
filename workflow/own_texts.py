"""Sentences that a language model writes itself, for synthetic voices to say.

A speech LLM learns from its training texts which sounds are which words; some
thousand short texts hold few words. The decoder that is to hear them knows
many more, and writes them in the same manner when it is shown a few.
"""

import random
import re
import sys
from collections.abc import Iterator

import torch

from speechllm.text_lm import load_text_model

# Lines that each start is shown, tokens that it then writes, starts at once.
SHOWN, WRITTEN, BATCH = 12, 64, 32
# Lines without one that is new, after which a model has no more to say.
PATIENCE = 2000
MOST_WORDS = 12
# What voices can say without guessing: words alone.
SAYABLE = re.compile(r"[a-z']+( [a-z']+){1,%d}" % (MOST_WORDS - 1))


def own_texts(
    source: str, shown: list[str], closed: set[str], count: int, seed: int
) -> list[str]:
    """So many new sentences in the manner of those shown, none of the closed."""
    rng, found, old = random.Random(seed), {}, 0
    closed = {text.lower() for text in (*shown, *closed)}
    torch.manual_seed(seed)
    for line in lines_of(source, [text.lower() for text in shown], rng):
        new = (
            SAYABLE.fullmatch(line) and line not in closed and line not in found
        )
        old = 0 if new else old + 1
        if new:
            found[line] = None
        if old > PATIENCE:
            sys.exit(
                f"{source}: writes {len(found)} sentences and then nothing "
                f"new: ask for fewer than {count}, or --written=0"
            )
        if len(found) >= count:
            break
    return list(found)


@torch.inference_mode()
def lines_of(source, shown, rng) -> Iterator[str]:
    """Lines without end, each batch of starts shown some of the lines."""
    decoder = load_text_model(source, "bfloat16")
    tokenizer, model = decoder.tokenizer, decoder.lm
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    while True:
        starts = [
            "\n".join([*rng.sample(shown, min(SHOWN, len(shown))), ""])
            for _ in range(BATCH)
        ]
        inputs = tokenizer(starts, return_tensors="pt", padding=True)
        written = model.generate(
            **inputs,
            max_new_tokens=WRITTEN,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=0.9,
            pad_token_id=tokenizer.pad_token_id,
        )[:, inputs["input_ids"].shape[1] :]
        for text in tokenizer.batch_decode(written, skip_special_tokens=True):
            # The last line may be cut.
            yield from (line.strip() for line in text.split("\n")[:-1])
