"""Cut long audio at quiet points into pieces that a model takes.

Authors
 * The speechbrain_ext authors, 2026
"""

import torch

# Seconds. Energy is looked at in steps of HOP and averaged over QUIET, about
# the pause between two words.
HOP = 0.01
QUIET = 0.2
# A piece is at least this share of the longest, so that the place to cut can
# be chosen and no tiny piece is left over.
LEAST = 0.5


def pieces(blocks, sample_rate, longest):
    """Cut a waveform that comes in blocks.

    Arguments
    ---------
    blocks : iterable of torch.Tensor
        ``[N]`` each, one after the other.
    sample_rate : int
        Their rate.
    longest : int
        Most samples of a piece.

    Yields
    ------
    start : int
        The piece's first sample.
    wav_N : torch.Tensor
        The piece. All pieces joined are the whole; what is short enough is
        one piece.

    Example
    -------
    >>> wav = torch.ones(100)
    >>> wav[50:70] = 0
    >>> [(start, len(wav)) for start, wav in pieces([wav], 100, 80)]
    [(0, 60), (60, 40)]
    """
    waiting, start = torch.zeros(0), 0
    for block in blocks:
        waiting = torch.cat([waiting, block])
        # Two pieces ahead, so that the last two can share what is left.
        while len(waiting) > 2 * longest:
            cut = quietest(waiting, sample_rate, longest * LEAST, longest)
            yield start, waiting[:cut]
            waiting, start = waiting[cut:], start + cut
    while len(waiting) > longest:
        most = min(longest, len(waiting) - longest * LEAST / 2)
        # Two pieces, unless that leaves no choice where to cut.
        least = max(longest * LEAST, len(waiting) - longest)
        if most - least < longest * LEAST / 2:
            least = min(longest * LEAST, most)
        cut = quietest(waiting, sample_rate, least, most)
        yield start, waiting[:cut]
        waiting, start = waiting[cut:], start + cut
    if len(waiting):
        yield start, waiting


def quietest(wav_N, sample_rate, least, most):
    """The sample in the middle of the quietest stretch.

    Arguments
    ---------
    wav_N : torch.Tensor
        A waveform.
    sample_rate : int
        Its rate.
    least, most : float
        Between which samples to cut.

    Returns
    -------
    int
        The later one of equals: fewer pieces.
    """
    hop = max(1, int(HOP * sample_rate))
    first, last = int(least), int(most)
    around = int(QUIET * sample_rate / 2)
    begin = max(0, first - around)
    part = wav_N[begin : last + around].float().square()
    sums = torch.cat([torch.zeros(1), part.cumsum(0, dtype=torch.float64)])
    places = torch.arange(last, max(first, 1) - 1, -hop)
    low = (places - around - begin).clamp(min=0)
    high = (places + around - begin).clamp(max=len(part))
    energy = (sums[high] - sums[low]) / (high - low)
    return max(1, int(places[energy.argmin()]))
