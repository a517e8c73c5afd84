"""The words around the speech, and the sequence that they make with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

SPEECH = "{speech}"
TARGET = "{target}"
BOS = "{bos}"
# Label of a position that predicts nothing (torch's own default).
IGNORE = -100


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
    tokenizer: PreTrainedTokenizerBase
    target_prefix: str = ""

    @classmethod
    def from_template(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        chat_template: bool = False,
    ) -> Prompt:
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

    def plain(self) -> Prompt:
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

    def encode_target(self, text: str) -> torch.Tensor:
        """Target text to ids ``[T]``, the end token last.

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

    def decode(self, ids) -> str:
        """Ids (end token or not) back to text."""
        ids = [int(i) for i in ids]
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return str(text).strip()


def template_faults(template: str) -> Iterator[tuple[str, str]]:
    """What is wrong with a template, and the mend, in words."""
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


# ----------------------------------------------------------------------------
# Speech, prompt and target as one sequence: the only place that knows the order.
#
# A row is ``[before] speech [after] target``, packed without holes; padding
# stands at one end of the row only and positions count real tokens, so that a
# row means the same alone and in any batch (up to rounding). Training (padded
# on the right) and decoding (padded on the left) use the same assembly.


@dataclass
class Sequence:
    """Assembled rows, ready for the decoder.

    Arguments
    ---------
    embeds_BQD : torch.Tensor
        Input embeddings; zeros at padding.
    mask_BQ : torch.Tensor
        1 at real positions, 0 at padding (int64).
    positions_BQ : torch.Tensor
        Place among the row's real positions, from 0.
    prompt_lengths_B : torch.Tensor
        Real positions up to the end of the prompt.
    labels_BQ : torch.Tensor or None
        The id each position has to predict, `IGNORE` where it predicts none.
    padding : str
        Where padding may stand: "none", "right", or "any" (not known).
    places_N : torch.Tensor or None
        Where there are labels, in the rows one after another; None: not known.
    names : list of str or None
        What messages call the rows.
    """

    embeds_BQD: torch.Tensor
    mask_BQ: torch.Tensor
    positions_BQ: torch.Tensor
    prompt_lengths_B: torch.Tensor
    labels_BQ: torch.Tensor | None = None
    padding: str = "any"
    places_N: torch.Tensor | None = None
    names: list[str] | None = None

    def as_inputs(self) -> dict[str, torch.Tensor]:
        """The rows as keyword arguments of a Hugging Face model."""
        return {
            "inputs_embeds": self.embeds_BQD,
            "attention_mask": self.mask_BQ,
            "position_ids": self.positions_BQ,
        }

    def targets_of(self, h_BQD: torch.Tensor) -> tuple:
        """States of any width and labels of the target tokens, in order."""
        labels_BQ: Any = self.labels_BQ
        if self.places_N is None:
            wanted_BQ = labels_BQ != IGNORE
            return h_BQD[wanted_BQ], labels_BQ[wanted_BQ]
        # How many there are is known: a mask would have to be waited for.
        h_ND = h_BQD.flatten(0, 1).index_select(0, self.places_N)
        return h_ND, labels_BQ.flatten()[self.places_N]

    def causal_inputs(self) -> dict[str, torch.Tensor]:
        """`as_inputs`, without mask and positions where none are needed.

        No real position of a causal LM sees padding that stands behind it,
        and its positions count from 0 by themselves. Without a mask, torch
        attends with its fastest kernels and copies no grouped heads. What
        comes out at padding differs, and means nothing either way.
        """
        if self.padding == "any":
            return self.as_inputs()
        return {"inputs_embeds": self.embeds_BQD}


def assemble(
    prompts: Prompt | list[Prompt],
    speech: list[torch.Tensor],
    embed: Callable[[torch.Tensor], torch.Tensor],
    targets: list[torch.Tensor] | None = None,
    side: str = "right",
) -> Sequence:
    """Put speech, prompt and target of each row together.

    The last target token (the end token) is predicted, never read, so it is
    not part of the input: a row is as long as the positions it needs.

    Arguments
    ---------
    prompts : Prompt or list of Prompt
        One for all rows, or one for each (rows of different tasks).
    speech : list of torch.Tensor
        A row's projected speech each, shape ``[S, D]``, without padding.
    embed : callable
        Ids of shape ``[*]`` to embeddings of shape ``[*, D]``.
    targets : list of torch.Tensor or None
        A row's target ids each, shape ``[T]``; None to decode.
    side : str
        Where padding goes: "right" (training) or "left" (decoding).

    Returns
    -------
    Sequence

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> speech = [torch.zeros(2, 32), torch.zeros(3, 32)]
    >>> rows = assemble(model.prompt, speech, model.decoder.embed)
    >>> rows.mask_BQ.sum(1)
    tensor([7, 8])
    """
    if not isinstance(prompts, (list, tuple)):
        prompts = [prompts] * len(speech)
    device = speech[0].device

    def moved(values):
        """On the device, without waiting for it."""
        return torch.as_tensor(values).to(device, non_blocking=True)

    rows, labels, prompt_lengths, wanted = [], [], [], []
    embedded = {}
    for index, (prompt, spoken) in enumerate(zip(prompts, speech)):
        if id(prompt) not in embedded:
            embedded[id(prompt)] = (
                embed(moved(prompt.before)),
                embed(moved(prompt.after)),
            )
        before, after = embedded[id(prompt)]
        row = [before, spoken.to(before.dtype), after]
        length = len(before) + len(spoken) + len(after)
        prompt_lengths.append(length)
        if targets is not None:
            target = moved(targets[index])
            row.append(embed(target[:-1]))
            # Text alone, without a first token, has nothing before it that
            # could predict its beginning.
            nothing = target.new_full((max(length - 1, 0),), IGNORE)
            said = target if length else target[1:]
            labels.append(torch.cat([nothing, said]))
            wanted.append(len(nothing) + torch.arange(len(said)))
        rows.append(torch.cat(row))
    sizes = [len(row) for row in rows]
    width = max(sizes)
    padding = "any" if side == "left" else "right"
    mask_BQ = _mask(moved(sizes), width, side)
    for index, size in enumerate(sizes if wanted else ()):
        wanted[index] += index * width + (width - size) * (side == "left")
    return Sequence(
        embeds_BQD=pad_sequence(rows, batch_first=True, padding_side=side),
        mask_BQ=mask_BQ,
        positions_BQ=positions_from_mask(mask_BQ),
        prompt_lengths_B=moved(prompt_lengths),
        labels_BQ=pad_sequence(
            labels, batch_first=True, padding_value=IGNORE, padding_side=side
        )
        if targets is not None
        else None,
        padding="none" if min(sizes) == width else padding,
        places_N=moved(torch.cat(wanted)) if wanted else None,
    )


def positions_from_mask(mask_BQ: torch.Tensor) -> torch.Tensor:
    """Positions that count real tokens from 0, whatever the padding's side."""
    return (mask_BQ.long().cumsum(dim=1) - 1).clamp(min=0)


def _mask(lengths_B, width, side):
    """1 at the real positions of rows of the given lengths."""
    places = torch.arange(width, device=lengths_B.device)
    if side == "left":
        places = width - 1 - places
    return (places[None, :] < lengths_B[:, None]).long()
