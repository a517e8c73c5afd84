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
BOS = "{bos}"


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
            ``{bos}``, at most once, says where the beginning-of-sequence
            token stands; without it, in front of everything if the tokenizer
            begins a text so. Where there is none, ``{bos}`` is nothing.
        chat_template : bool
            Put the text into the tokenizer's own chat template, as what the
            user says. It has its own beginning: ``{bos}`` is nothing.

        Returns
        -------
        Prompt

        Raises
        ------
        ValueError
            If the template lacks ``{speech}``, names a part twice, the
            tokenizer lacks an end token, or there is no chat template.
        """
        for fault, mend in template_faults(template):
            raise ValueError(f"prompt: {template!r} {fault}: {mend}.")
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"The tokenizer of {tokenizer.name_or_path} has no "
                "end-of-sequence token, so decoding could never stop: set "
                "eos_token in its tokenizer_config.json."
            )
        if chat_template or tokenizer.bos_token_id is None:
            template = template.replace(BOS, "")
        elif BOS not in template and _adds_bos(tokenizer):
            template = BOS + template
        text, mark, _ = template.partition(TARGET)
        body = text.rstrip(" ") if mark else text
        prefix = text[len(body) :]
        if chat_template:
            body, prefix = _chat(tokenizer, body), ""
        before, after = (_with_bos(tokenizer, s) for s in body.split(SPEECH))
        return cls(before, after, tokenizer, prefix)

    def plain(self):
        """A prompt that says nothing: text alone, begun as texts begin."""
        first, ids = self.tokenizer.bos_token_id, self.before[:1].tolist()
        # After the speech it is there for the target, not for every text.
        if first in self.after.tolist() and _adds_bos(self.tokenizer):
            ids = [first]
        begin = [i for i in ids if i == first]
        return Prompt(
            torch.tensor(begin, dtype=torch.long),
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


def template_faults(template):
    """What is wrong with a template.

    Arguments
    ---------
    template : str
        As `Prompt.from_template` takes it.

    Yields
    ------
    fault, mend : str
        In words.

    Example
    -------
    >>> list(template_faults("{speech}{target}!"))
    [('goes on after {target}', 'nothing may')]
    """
    if template.count(SPEECH) != 1:
        mend = f"write {SPEECH} exactly once, where the speech belongs"
        yield f"has {SPEECH} {template.count(SPEECH)} times", mend
    if template.count(BOS) > 1:
        mend = f"write {BOS} once, or leave it out"
        yield f"has {BOS} {template.count(BOS)} times", mend
    if template.partition(TARGET)[2]:
        yield f"goes on after {TARGET}", "nothing may"


def _with_bos(tokenizer, text):
    """Ids of a piece of a template, ``{bos}`` replaced by its token."""
    first, mark, second = text.partition(BOS)
    ids = _ids(tokenizer, first)
    if mark:
        ids = [*ids, tokenizer.bos_token_id, *_ids(tokenizer, second)]
    return torch.tensor(ids, dtype=torch.long)


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
