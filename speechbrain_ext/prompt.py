"""The words around the speech, in the decoder's own tokens.

Authors
 * The speechbrain_ext authors, 2026
"""

from dataclasses import dataclass

import torch

from speechbrain_ext.sequence import (
    IGNORE,
    Sequence,
    assemble,
    positions_from_mask,
)

__all__ = ["IGNORE", "Prompt", "Sequence", "assemble", "positions_from_mask"]

SPEECH = "{speech}"
TARGET = "{target}"


@dataclass
class Prompt:
    """Token ids around the speech, and how a target becomes ids.

    Arguments
    ---------
    before : torch.Tensor
        Ids before the speech (beginning-of-sequence included), shape ``[*]``.
    after : torch.Tensor
        Ids between speech and target, shape ``[*]``.
    tokenizer : transformers.PreTrainedTokenizerBase
        The decoder's tokenizer.
    target_prefix : str
        Written directly before each target (" ", or nothing).

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_tokenizer
    >>> tokenizer = tiny_tokenizer()
    >>> prompt = Prompt.from_template(tokenizer, "{speech} say: {target}")
    >>> prompt.decode(prompt.encode_target("hi")).strip()
    'hi'
    """

    before: torch.Tensor
    after: torch.Tensor
    tokenizer: object
    target_prefix: str = ""

    @classmethod
    def from_template(cls, tokenizer, template, chat_template=False):
        """Read a template such as ``"{speech}Transcribe speech to text."``.

        Arguments
        ---------
        tokenizer : transformers.PreTrainedTokenizerBase
            The decoder's tokenizer; its beginning- and end-of-sequence tokens
            are used, none is typed by hand.
        template : str
            Text with ``{speech}`` once and, optionally, ``{target}`` at its
            end. A space right before ``{target}`` is tokenised together with
            the target, since most vocabularies hold words with their space.
        chat_template : bool
            Put the text into the tokenizer's own chat template, as what the
            user says.

        Returns
        -------
        Prompt

        Raises
        ------
        ValueError
            If the template lacks ``{speech}``, the tokenizer lacks an end
            token, or there is no chat template.
        """
        if template.count(SPEECH) != 1:
            raise ValueError(
                f"prompt: {template!r} must contain {SPEECH} exactly once."
            )
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"The tokenizer of {tokenizer.name_or_path} has no "
                "end-of-sequence token, so decoding could never stop: set "
                "eos_token in its tokenizer_config.json."
            )
        text, mark, rest = template.partition(TARGET)
        if mark and rest:
            raise ValueError(
                f"prompt: {template!r} goes on after {TARGET}; nothing may."
            )
        body = text.rstrip(" ") if mark else text
        prefix = text[len(body) :]
        if chat_template:
            body, prefix = _chat(tokenizer, body), ""
        before, after = body.split(SPEECH)
        before_ids = _ids(tokenizer, before)
        if not chat_template and _adds_bos(tokenizer):
            before_ids = [tokenizer.bos_token_id] + before_ids
        return cls(
            torch.tensor(before_ids, dtype=torch.long),
            torch.tensor(_ids(tokenizer, after), dtype=torch.long),
            tokenizer,
            prefix,
        )

    def plain(self):
        """A prompt that says nothing: text alone, begun as texts begin."""
        first = self.tokenizer.bos_token_id
        starts = len(self.before) > 0 and int(self.before[0]) == first
        return Prompt(
            self.before[: int(starts)],
            self.after[:0],
            self.tokenizer,
        )

    def encode_target(self, text):
        """Target text to ids, the end token last.

        Arguments
        ---------
        text : str
            What the decoder is to say.

        Returns
        -------
        torch.Tensor
            Shape ``[T]``, int64.

        Raises
        ------
        ValueError
            If the text is empty for this tokenizer.
        """
        ids = _ids(self.tokenizer, self.target_prefix + text)
        if not text.strip() or not ids:
            raise ValueError(
                f"The target {text!r} has no tokens: correct the transcript, "
                "or leave the utterance out."
            )
        return torch.tensor(ids + [self.tokenizer.eos_token_id])

    def decode(self, ids):
        """Ids (end token or not) back to text (str)."""
        return self.tokenizer.decode(
            [int(i) for i in ids], skip_special_tokens=True
        ).strip()


def _ids(tokenizer, text):
    """Ids of a piece of text, without any special tokens around it."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _adds_bos(tokenizer):
    """Whether the tokenizer begins a text with its own first token."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and (
        ids[0] == tokenizer.bos_token_id
    )


def _chat(tokenizer, body):
    """The body as a user's turn, up to where the answer begins."""
    if not tokenizer.chat_template:
        raise ValueError(
            f"chat_template: True, but {tokenizer.name_or_path} has no chat "
            "template: use the instruct version of it, or chat_template: "
            "False."
        )
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": body}],
        tokenize=False,
        add_generation_prompt=True,
    )
