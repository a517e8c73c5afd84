"""A Hugging Face tokenizer in GGUF's words."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

# How text is cut before its pieces are merged: the steps of tokenizer.json
# and whether whole words skip the merges, under llama.cpp's names.
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = (
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE = {
    (("bytes",), False): "gpt-2",
    (("digits", "bytes"), False): "smollm",
    ((WORDS % "{1,3}",), True): "llama-bpe",
    ((WORDS % "{1,3}",), False): "dbrx",
    ((WORDS % "",), False): "qwen2",
}


class Vocabulary(NamedTuple):
    """Tokens by id; `scores` only where a sentencepiece needs them."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None
    merges: list[str] | None
    space_prefix: bool | None


def read_vocabulary(tokenizer: Any, size: int, where: str) -> Vocabulary:
    """The vocabulary of a fast tokenizer, filled up to `size` ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    told = json.loads(backend.to_str()) if backend else {"model": {}}
    model = told["model"]
    if model.get("type") != "BPE":
        raise ValueError(
            f"{where}: its tokenizer ({model.get('type') or 'no fast one'}) "
            "is no BPE, the only kind that is written as GGUF"
        )
    tokens, types = _tokens(told, size, where)
    pairs = [
        pair.split(" ") if isinstance(pair, str) else pair
        for pair in model["merges"]
    ]
    if model.get("byte_fallback"):
        own = _scores(tokens, pairs), None, _space_prefix(told)
        return Vocabulary("llama", "default", tokens, types, *own)
    merges = [" ".join(pair) for pair in pairs]
    pre = _pre(told, where)
    return Vocabulary("gpt2", pre, tokens, types, None, merges, None)


def _tokens(told, size, where):
    """Each id's token and what kind it is."""
    from gguf import TokenType

    model = told["model"]
    named = {i: token for token, i in model["vocab"].items()}
    kinds = dict.fromkeys(named, TokenType.NORMAL)
    if model.get("byte_fallback"):
        for i, token in named.items():
            if len(token) == 6 and token.startswith("<0x"):
                kinds[i] = TokenType.BYTE
            elif token == model.get("unk_token"):
                kinds[i] = TokenType.UNKNOWN
    if max(named) >= size:
        raise ValueError(
            f"{where}: its tokenizer has the id {max(named)}, its embeddings "
            f"only {size} rows"
        )
    for one in told["added_tokens"]:
        i = one["id"]
        if i >= size:
            # transformers adds what it thinks that a kind has; no row, no use.
            continue
        named[i] = one["content"]
        if kinds.get(i) != TokenType.UNKNOWN:
            special = one["special"]
            kinds[i] = TokenType.CONTROL if special else TokenType.USER_DEFINED
    # As llama.cpp's converter calls the rows that no token has.
    tokens = [named.get(i, f"[PAD{i}]") for i in range(size)]
    return tokens, [int(kinds.get(i, TokenType.UNUSED)) for i in range(size)]


def _scores(tokens, pairs):
    """Sentencepiece merges what scores most: the first merges first."""
    rank = {}
    for place, (left, right) in enumerate(pairs):
        rank.setdefault(left + right, place)
    return [-float(rank.get(token, 0)) for token in tokens]


def _space_prefix(told):
    """Whether a space is put before the text."""
    steps = _steps(told.get("normalizer"), "normalizers")
    if any(one["type"] == "Prepend" for one in steps):
        return True
    steps = _steps(told.get("pre_tokenizer"), "pretokenizers")
    return any(
        one["type"] == "Metaspace" and one.get("prepend_scheme") != "never"
        for one in steps
    )


def _steps(told, inside):
    """A tokenizer's steps of a kind, one after the other."""
    if not told:
        return []
    return told[inside] if told["type"] == "Sequence" else [told]


def _pre(told, where):
    """llama.cpp's name of how the text is cut before the merges."""
    names = []
    for one in _steps(told.get("pre_tokenizer"), "pretokenizers"):
        kind = one["type"]
        plain = not one.get("add_prefix_space") and not one.get("invert")
        if kind == "Split" and plain and one["behavior"] == "Isolated":
            names.append(one["pattern"].get("Regex"))
        elif kind == "Digits" and one["individual_digits"]:
            names.append("digits")
        elif kind == "ByteLevel" and plain:
            # Without its own pattern it only spells bytes.
            names += ["bytes"] if one["use_regex"] else []
        else:
            names.append(kind)
    key = tuple(names), bool(told["model"].get("ignore_merges"))
    if key not in PRE:
        raise ValueError(
            f"{where}: its tokenizer cuts text in a way that has no name in "
            f"GGUF here ({names}, ignore_merges {key[1]}); known are those of "
            f"{', '.join(PRE.values())}"
        )
    return PRE[key]
