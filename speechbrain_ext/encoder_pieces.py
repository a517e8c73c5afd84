"""From utterances to the pieces that an encoder takes, and back.

Shapes: B batch, P pieces, N samples, T frames, S speech tokens, E encoder
width.

Authors
 * The speechbrain_ext authors, 2026
"""

import torch
import torch.nn.functional as F


def piece_lengths(length, limit, least):
    """Lengths of the pieces that an utterance is encoded in.

    Arguments
    ---------
    length : int
        Samples of the utterance.
    limit : int or None
        The longest piece; None: whatever comes.
    least : int
        Samples of one frame.

    Returns
    -------
    list of int

    Example
    -------
    >>> piece_lengths(25, 10, 4), piece_lengths(23, 10, 4)
    ([10, 10, 5], [10, 10])
    """
    if limit is None or length <= limit:
        return [length]
    whole, rest = divmod(length, limit)
    # A rest shorter than one frame has no features.
    return [limit] * whole + ([rest] if rest >= least else [])


def cut_into_pieces(wav_BN, lengths, pieces, normalise):
    """A batch of pieces from a batch of utterances.

    Arguments
    ---------
    wav_BN : torch.Tensor
        Waveforms, padded with anything.
    lengths : list of int
        True lengths in samples.
    pieces : list of list of int
        Lengths of each utterance's pieces.
    normalise : bool
        Bring each utterance to mean 0 and variance 1.

    Returns
    -------
    wav_PN : torch.Tensor
        The pieces, padded with zeros.

    Example
    -------
    >>> wav_BN = torch.tensor([[1.0, 2.0, 3.0]])
    >>> cut_into_pieces(wav_BN, [3], [[2, 1]], normalise=False)
    tensor([[1., 2.],
            [3., 0.]])
    """
    sizes = [size for row in pieces for size in row]
    # Rows are copied into fresh zeros, so that nothing that stood in the
    # padding can be seen.
    wav_PN = wav_BN.new_zeros(len(sizes), max(sizes))
    index = 0
    for wav_N, length, row in zip(wav_BN, lengths, pieces, strict=True):
        wav_N = wav_N[:length]
        if normalise:
            variance, mean = torch.var_mean(wav_N, correction=0)
            wav_N = (wav_N - mean) * torch.rsqrt(variance + 1e-7)
        for size, piece_N in zip(row, wav_N.split(row[0]), strict=False):
            wav_PN[index, :size] = piece_N
            index += 1
    return wav_PN


def join_pieces(x_PTE, counts, output_norm):
    """Each utterance's features from those of its pieces.

    Arguments
    ---------
    x_PTE : torch.Tensor
        Features of the pieces, padded with anything.
    counts : list of list of int
        Frames of each utterance's pieces.
    output_norm : bool
        Layer-normalise each utterance over its own time and width.

    Returns
    -------
    x_BTE : torch.Tensor
        Zero past each utterance's end.

    Example
    -------
    >>> x_PTE = torch.arange(4.0).view(2, 2, 1)
    >>> join_pieces(x_PTE, [[2, 1]], output_norm=False).flatten()
    tensor([0., 1., 2.])
    """
    totals = [sum(row) for row in counts]
    x_BTE = x_PTE.new_zeros(len(counts), max(totals), x_PTE.shape[2])
    index = 0
    for x_TE, total, row in zip(x_BTE, totals, counts, strict=True):
        parts = [x_PTE[index + i, :n] for i, n in enumerate(row)]
        x_TE[:total] = torch.cat(parts)
        if output_norm:
            own = x_TE[:total].float()
            x_TE[:total] = F.layer_norm(own, own.shape).to(x_TE.dtype)
        index += len(row)
    return x_BTE


def concatenate_frames(x_BTE, frames_B, k):
    """Join every k frames into one speech token (FACTS: 50 Hz to 10 Hz).

    Arguments
    ---------
    x_BTE : torch.Tensor
        Features.
    frames_B : torch.Tensor
        True lengths in frames. What stands past them is not looked at.
    k : int
        Frames a token. A tail shorter than k is padded with zeros.

    Returns
    -------
    x_BSE : torch.Tensor
        Tokens of width k times E; S is T / k, rounded up.
    tokens_B : torch.Tensor
        True lengths in tokens: frames / k, rounded up.

    Raises
    ------
    ValueError
        If k is no number of frames.

    Example
    -------
    >>> x_BTE, frames_B = torch.rand(1, 5, 2), torch.tensor([4])
    >>> x_BSE, tokens_B = concatenate_frames(x_BTE, frames_B, 2)
    >>> x_BSE.shape, tokens_B
    (torch.Size([1, 3, 4]), tensor([2]))
    """
    if k < 1:
        raise ValueError(f"k: {k}: choose 1 or more frames a token")
    batch, total, width = x_BTE.shape
    tokens = -(-total // k)
    frames_B = frames_B.to(x_BTE.device)
    x_BTE = F.pad(x_BTE, (0, 0, 0, tokens * k - total))
    time_T = torch.arange(tokens * k, device=x_BTE.device)
    past_BT = time_T >= frames_B[:, None]
    x_BTE = x_BTE.masked_fill(past_BT[..., None], 0)
    return x_BTE.view(batch, tokens, k * width), (frames_B + k - 1) // k
