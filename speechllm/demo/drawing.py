"""What the page shows, as HTML: texts, layers, distances."""

from __future__ import annotations

import difflib
import html
from collections.abc import Sequence

import numpy as np

from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.layers.removal import ranges
from speechllm.cli.terminal import colour_of
from speechllm.demo.systems import Said, System

STYLE = """
#pair { flex-wrap: wrap; }
#pair > * { flex: 1 1 320px; min-width: min(320px, 100%) !important; }
#pair .html-container, #map .html-container { padding: 0 !important; }
#pair .html-container, #pair .prose { height: 100%; }
.card { border: 1px solid var(--border-color-primary); border-radius: 10px;
  padding: 14px 16px; display: flex; gap: 16px; height: 100%;
  box-sizing: border-box; background: var(--block-background-fill); }
.card .words { flex: 1; min-width: 0; }
.card h3 { margin: 0; font-size: 1.05rem; overflow-wrap: anywhere; }
.card .sub, .legend { opacity: .7; font-size: .85rem; margin: 2px 0 10px; }
.card .text { font-size: 1.1rem; line-height: 1.55; min-height: 3.1em;
  margin: 0 0 12px; overflow-wrap: anywhere; }
.card .text.none { opacity: .7; }
.card mark { border-radius: 3px; padding: 0 2px; color: inherit; }
.card mark.gone { background: #e07b0033; text-decoration: underline dotted; }
.card mark.new { background: #0a84ff33; text-decoration: underline; }
.facts { display: grid; grid-template-columns: auto 1fr; gap: 2px 12px;
  font-size: .9rem; margin: 0; }
.facts dt { opacity: .7; }
.facts dd { margin: 0; font-variant-numeric: tabular-nums; }
.stack { display: flex; flex-direction: column-reverse; gap: 3px;
  width: 56px; flex: none; }
.stack i { flex: 1 1 4px; max-height: 30px; border-radius: 3px;
  background: #0a84ff; border: 1.5px solid #0a84ff; box-sizing: border-box; }
.stack i.gone { background: transparent; border: 1.5px dashed #e07b00; }
.map svg { width: 100%; max-width: 460px; height: auto; display: block; }
.map text { fill: var(--body-text-color); font-size: 11px;
  font-family: inherit; }
.map h3 { margin: 0; font-size: 1.05rem; }
"""
CELL = 24


def marked(text: str, other: str, kind: str) -> str:
    """A text as HTML; words that the other one lacks are marked."""
    words, beside = text.split(), other.split()
    compared = difflib.SequenceMatcher(None, words, beside, autojunk=False)
    parts = []
    for what, first, last, _, _ in compared.get_opcodes():
        said = html.escape(" ".join(words[first:last]))
        if what != "equal" and said:
            said = f'<mark class="{kind}">{said}</mark>'
        parts.append(said)
    return " ".join(filter(None, parts))


def stack(system: System) -> str:
    """The layers, the last one on top, removed ones hollow."""
    kept = set(system.kept)
    bars = "".join(
        f'<i title="layer {i}"></i>'
        if i in kept
        else f'<i class="gone" title="layer {i}: removed"></i>'
        for i in range(system.layers)
    )
    about = f"{len(kept)} of {system.layers} layers"
    return f'<div class="stack" role="img" aria-label="{about}">{bars}</div>'


def card(
    system: System, said: Said | None, beside: Said | None, kind: str
) -> str:
    """A system: its layers, its text, and what it took."""
    if said is None:
        text = '<p class="text none">Record or drop a file.</p>'
    elif not said.text:
        text = '<p class="text none">(nothing)</p>'
    else:
        told = html.escape(said.text)
        if beside is not None:
            told = marked(said.text, beside.text, kind)
        text = f'<p class="text">{told}</p>'
    facts = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>"
        for name, value in _facts(system, said)
    )
    removed = sorted(set(range(system.layers)) - set(system.kept))
    gone = (
        f"without layers {ranges(removed)}" if removed else "no layer removed"
    )
    return (
        f'<div class="card">{stack(system)}<div class="words">'
        f"<h3>{html.escape(system.name)}</h3>"
        f'<p class="sub">{len(system.kept)} of {system.layers} layers, '
        f'{gone}</p>{text}<dl class="facts">{facts}</dl></div></div>'
    )


def _facts(system: System, said: Said | None) -> list[tuple[str, str]]:
    """What is told of a system in figures."""
    facts = []
    if said is not None:
        speed = said.audio_seconds / max(said.seconds, 1e-9)
        facts += [
            ("time", f"{said.seconds:.2f} s ({speed:.1f} x real time)"),
            ("tokens", str(said.tokens)),
        ]
    facts.append(("LLM weights", _size(system.backbone_bytes)))
    facts.append(("other weights", _size(system.other_bytes)))
    if said is not None and said.peak is not None:
        facts.append(("GPU memory, peak", _size(said.peak)))
    return facts + list(system.scores.items())


def _size(count):
    """Bytes in words."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def heat_map(
    table: RedundancyTable, removed: Sequence[int] = (), origin: str = ""
) -> str:
    """The distance of each block, the path, and a removed block framed."""
    layers, distances = table.num_layers, table.distances
    low, high = np.nanmin(distances), np.nanmax(distances)
    best = {block.size: block.start for block in table.path()}
    left, cells = 34, []
    for size in range(1, layers + 1):
        for start in range(layers - size + 1):
            value = distances[size - 1, start]
            share = float((value - low) / max(high - low, 1e-12))
            x, y = left + start * CELL, (layers - size) * CELL
            red, green, blue = colour_of(share)
            cells.append(
                f'<rect x="{x}" y="{y}" width="{CELL - 1}" '
                f'height="{CELL - 1}" fill="rgb({red},{green},{blue})">'
                f"<title>{size} layers from {start}: {value:.4f}</title>"
                "</rect>"
            )
            if best.get(size) == start:
                ink = "#fff" if share < 0.6 else "#000"
                cells.append(
                    f'<circle cx="{x + CELL / 2 - 0.5}" '
                    f'cy="{y + CELL / 2 - 0.5}" r="4.5" fill="{ink}"/>'
                )
    cells += _frame(removed, layers, left) + _axes(layers, left)
    width, height = left + layers * CELL + 2, layers * CELL + 40
    about = f" ({html.escape(origin)})" if origin else ""
    return (
        f'<div class="map"><h3>Which layers are redundant{about}</h3>'
        '<p class="legend">Angular distance between the residual stream '
        f"before and behind a block of layers, {low:.3f} (dark) to "
        f"{high:.3f} (bright). Dots: the path, the block of each size that "
        "changes the stream least. Frame: the block removed on the right.</p>"
        f'<svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="distances of blocks of layers">{"".join(cells)}</svg>'
        "</div>"
    )


def _frame(removed, layers, left):
    """A frame around the cell of a removed block, where it is one."""
    removed = sorted(removed)
    if not removed or removed[-1] - removed[0] + 1 != len(removed):
        return []
    x = left + removed[0] * CELL - 1.5
    y = (layers - len(removed)) * CELL - 1.5
    return [
        f'<rect class="chosen" x="{x}" y="{y}" width="{CELL + 2}" '
        f'height="{CELL + 2}" fill="none" stroke="#e07b00" '
        'stroke-width="3"/>'
    ]


def _axes(layers, left):
    """Numbers and titles of both axes."""
    step = max(1, layers // 12)
    bottom = layers * CELL
    found = [
        f'<text x="{left + i * CELL + CELL / 2}" y="{bottom + 14}" '
        f'text-anchor="middle">{i}</text>'
        for i in range(0, layers, step)
    ]
    found += [
        f'<text x="{left - 6}" y="{(layers - n) * CELL + CELL / 2 + 4}" '
        f'text-anchor="end">{n}</text>'
        for n in range(1, layers + 1, step)
    ]
    middle = left + layers * CELL / 2
    return found + [
        f'<text x="{middle}" y="{bottom + 32}" text-anchor="middle">first '
        "layer of the block (up: its size)</text>"
    ]
