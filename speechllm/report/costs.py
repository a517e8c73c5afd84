"""Speed and memory against depth."""

from speechllm.report.claims.strategies import decoding_time, gains, peak_memory
from speechllm.report.drawing import COLUMN_WIDTH, figure
from speechllm.report.estimates import estimate
from speechllm.report.figure_two import STYLES
from speechllm.report.tables import system_name

COSTS = {"Decoding speed": decoding_time, "Peak memory": peak_memory}


def draw_costs(cells, path, width=COLUMN_WIDTH):
    """Draw speed and memory of pruned models, as times the whole model's."""
    lines = {what: _cost_lines(cells, m) for what, m in COSTS.items()}
    if not any(lines.values()):
        raise ValueError("no cost to draw: no pruned run beside a whole one")
    size = (width, 4.0)
    with figure(path, size, dots=300, pdf=True, font=7) as drawn:
        grid = drawn.subplots(2, 1, sharex=True)
        handles = {}
        for axes, (what, curves) in zip(grid, lines.items()):
            axes.axhline(1, color="0.8", linewidth=0.8)
            for (name, points), style in zip(curves.items(), STYLES * 9):
                x, y = zip(*[(share, one.value) for share, one in points])
                low = [one.low or one.value for _, one in points]
                high = [one.high or one.value for _, one in points]
                colour = _model_colour(list(curves), name)
                axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
                (handles[name],) = axes.plot(
                    x, y, color=colour, ls=style, marker="o", ms=3, lw=1.1
                )
            axes.set_ylabel(f"{what}\n(whole model = 1)")
        grid[1].set_xlabel("Layers removed (%)")
        drawn.legend(
            handles.values(),
            handles.keys(),
            loc="outside upper center",
            ncols=2,
            handlelength=3,
        )


def _model_colour(names, name):
    colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000")
    return colours[names.index(name) % len(colours)]


def _cost_lines(cells, measure):
    """By model: share of layers and cost as times the whole model's."""
    found = {}
    for which in cells.systems():
        points = []
        for depth in cells.depths(which):
            ratio_R = gains(cells, which, depth, measure)
            if ratio_R is None:
                continue
            # Faster is up, and less memory is down.
            drawn_R = ratio_R if measure is decoding_time else 1 / ratio_R
            share = 100 * depth / cells.layers(which)
            points.append((share, estimate(drawn_R)))
        if points:
            found[f"{system_name(which)}, {which[3]}"] = points
    return found
