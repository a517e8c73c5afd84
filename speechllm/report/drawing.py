"""What the pictures share: matplotlib, found late, and one look."""

from contextlib import contextmanager
from pathlib import Path

from speechbrain_ext.runs.files import atomic_write

# Okabe and Ito's colours, told apart by people of any colour vision, and
# darker ones of the same hues.
PALETTE = {
    "none": "#000000",
    "projector": "#E69F00",
    "decoder": "#0072B2",
    "both": "#D55E00",
    "attention": "#56B4E9",
    "bridge": "#CC79A7",
    "everywhere": "#B09A00",
    "spread": "#009E73",
    "spread_attention": "#00523C",
    "map": "#A0A0A0",
    "map_folded": "#606060",
}
SPARE_COLOURS = ("#009E73", "#CC79A7", "#56B4E9", "#F0E442")
FULL_WIDTH = 7.0
COLUMN_WIDTH = 3.4


@contextmanager
def figure(path, size, dots=200, pdf=False, font=8):
    """A figure that is written to a file when the block ends."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "pictures need matplotlib, which is not installed: "
            "pip install 'speechbrain_ext[report]'"
        ) from error
    style = {
        "font.size": font,
        "axes.titlesize": font,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
    with matplotlib.rc_context(style):
        drawn = Figure(figsize=size, dpi=dots, layout="constrained")
        # Agg needs no display.
        canvas = FigureCanvasAgg(drawn)
        yield drawn
        with atomic_write(path, "wb") as stream:
            canvas.print_png(stream)
        if pdf:
            with atomic_write(Path(path).with_suffix(".pdf"), "wb") as stream:
                # Without a date the same results give the same file.
                plain = {"CreationDate": None}
                drawn.savefig(stream, format="pdf", metadata=plain)
