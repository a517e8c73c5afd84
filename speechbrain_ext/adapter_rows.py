"""Rows of one batch, each through an adapter and bridges of its own.

Authors
 * The speechbrain_ext authors, 2026
"""

from contextlib import contextmanager

from peft.tuners.lora import LoraLayer

from speechbrain_ext.healing.bridge import all_bridges

# PEFT's word for rows that go through no adapter.
NO_ADAPTER = "__base__"


@contextmanager
def adapter_of_each_row(decoder, names, bridges=None):
    """Send each row of a batch through the adapter that is named for it.

    PEFT takes a name for each row; decoding drops rows on its way, so the
    names are looked up anew each time a layer is called.

    Arguments
    ---------
    decoder : speechbrain_ext.decoder.Decoder
        With the adapters, or without any.
    names : list
        Of an adapter's name (str) for each row, or None for no adapter.
    bridges : list of str or None
        The name of each row's bridges at the gaps, where there are any.

    Yields
    ------
    callable
        Tell it which rows are left (indices of ``names``), each time some
        drop out.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> with adapter_of_each_row(tiny_speech_llm().decoder, [None]) as on_rows:
    ...     on_rows([0])
    """
    all_rows = [name or NO_ADAPTER for name in names]
    now, bridge_now = list(all_rows), list(bridges or names)

    def name_rows(layer, inputs, options):
        return inputs, {**options, "adapter_names": now}

    def on_rows(rows):
        now[:] = [all_rows[row] for row in rows]
        bridge_now[:] = [(bridges or names)[row] for row in rows]

    layers = [m for m in decoder.modules() if isinstance(m, LoraLayer)]
    if layers:
        decoder.adapter.base_model.enable_adapter_layers()
        decoder.requires_grad_(False)
    hooks = [
        layer.register_forward_pre_hook(name_rows, with_kwargs=True)
        for layer in layers
    ]
    crossed = all_bridges(decoder).values()
    for gap in crossed:
        gap.name_of_row = bridge_now
    try:
        yield on_rows
    finally:
        for gap in crossed:
            gap.name_of_row = None
        for hook in hooks:
            hook.remove()
