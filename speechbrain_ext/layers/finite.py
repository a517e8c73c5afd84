"""Refusing measurements that overflowed, before a minimum is taken of them.

NumPy and torch both take a NaN for the smallest value: a layer that could not
be measured would be the first to go.
"""

import math


def refuse_overflow(values, what):
    """Refuse values of which one is NaN or infinite.

    Arguments
    ---------
    values : iterable of float
        What was measured, in any nesting that has `tolist`, or flat.
    what : str
        What they are, for the error.

    Raises
    ------
    ValueError
        Saying how many, and the mend.
    """
    flat = values.flatten().tolist() if hasattr(values, "flatten") else values
    flat = list(flat)
    bad = sum(not math.isfinite(one) for one in flat)
    if bad:
        raise ValueError(
            f"{what}: {bad} of {len(flat)} are not a number. Numbers over "
            "65504 overflow float16: use bfloat16 or float32 (--dtype, or "
            "dtype of the backbone). Where that is in use, the weights hold "
            "what is no number: get the model again."
        )
