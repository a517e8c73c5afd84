"""The page itself, by Gradio: nothing leaves this machine."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from typing import Any

from speechbrain_ext.layers.distances import RedundancyTable
from speechllm.demo.drawing import STYLE, card, heat_map
from speechllm.demo.systems import (
    System,
    listen,
    load_systems,
    table_of,
    tasks_of,
)

# Seconds that a recording stays in Gradio's folder for uploads.
FORGET = 3600
HEAD = """# {title}
{lead} Everything is computed where this page comes from; nothing is sent
elsewhere.
"""


def library() -> Any:
    """Gradio, told to call nobody."""
    # Read when it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise ImportError(
            "the page needs Gradio: pip install 'gradio>=6,<7'"
        ) from error
    return gradio


class Session:
    """The systems of a page; what is known of a recording comes and goes."""

    def __init__(self, systems: list[System], table: RedundancyTable | None):
        self.systems, self.table = systems, table

    def show(
        self, audio: str | None, task: str, removed: float, known: dict
    ) -> tuple[str, str, str, dict]:
        """Both cards and the map; a system that has spoken is not asked."""
        whole, right = self.systems[0], self.nearest(removed)
        pair = filter(None, [whole, right])
        if known.get("of") != [audio, task]:
            known = {"of": [audio, task], "said": {}, "map": None}
        said = known["said"]
        for one in pair if audio else []:
            if one.name not in said:
                said[one.name] = listen(one, audio, task)
        ours = said.get(whole.name)
        theirs = said.get(right.name) if right else None
        # Of a pruned system alone, a table would not show what was removed.
        if audio and self.table is None and not whole.removed:
            if known["map"] is None:
                known["map"] = table_of(whole, audio, task, ours.text)
        return (
            card(whole, ours, theirs, "gone"),
            card(right, theirs, ours, "new") if right else "",
            self._map(known["map"], right),
            known,
        )

    def nearest(self, removed: float) -> System | None:
        """The system that lacks about so many layers."""
        others = self.systems[1:]
        if not others:
            return None
        return min(others, key=lambda one: abs(one.removed - removed))

    def _map(self, table, right):
        table = self.table or table
        if table is None:
            return ""
        gone = set(range(right.layers)) - set(right.kept) if right else ()
        origin = table.provenance.get("input", "")
        if table.count > 1:
            origin = f"{origin}, {table.count} recordings".strip(", ")
        return heat_map(table, sorted(gone), origin)


def build(
    systems: list[System], table: RedundancyTable | None = None
) -> tuple[Any, dict[str, Any]]:
    """Gradio's page, and how it is to be launched."""
    gradio = library()
    session, tasks = Session(systems, table), tasks_of(systems)
    depths = [one.removed for one in systems[1:]]
    first = max(depths, default=0)

    def show(audio, task, removed, known):
        try:
            return session.show(audio, task, removed, known or {})
        except ValueError as error:
            # Uploads have long names of their own.
            name = os.path.basename(audio or "")
            raise gradio.Error(str(error).replace(audio or "\0", name))

    lead = "One recording, two systems: the whole one and a pruned one."
    if not depths:
        lead = "Record or drop a file to see its text."
    with gradio.Blocks(
        title="Speech LLM", delete_cache=(FORGET, FORGET)
    ) as page:
        gradio.Markdown(HEAD.format(title="Fewer layers", lead=lead))
        audio, task, depth = _inputs(gradio, tasks, depths)
        known = gradio.State({})
        blank = session.show(None, tasks[0], first, {})
        with gradio.Row(equal_height=True, elem_id="pair"):
            left = gradio.HTML(blank[0], elem_id="whole")
            right = gradio.HTML(
                blank[1],
                elem_id="pruned",
                visible=bool(depths),
            )
        drawn = gradio.HTML(blank[2], elem_id="map")
        for changes in (audio.change, task.change, depth.change):
            changes(
                show,
                [audio, task, depth, known],
                [left, right, drawn, known],
                api_visibility="private",
                trigger_mode="always_last",
                show_progress_on=[left, right],
            )
    # Plain fonts, and nothing that calls home.
    return page, {
        "theme": gradio.themes.Default(
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        ),
        "css": STYLE,
        "share": False,
        "ssr_mode": False,
        "run_history": False,
        "enable_monitoring": False,
        "footer_links": [],
        "quiet": True,
    }


def _inputs(gradio: Any, tasks: list[str], depths: list[int]) -> tuple:
    """The recording, the task, and how many layers are gone on the right."""
    audio = gradio.Audio(
        sources=["upload", "microphone"],
        type="filepath",
        label="Recording",
        elem_id="recording",
        buttons=[],
        editable=False,
    )
    task = gradio.Radio(
        tasks, value=tasks[0], label="Task", visible=len(tasks) > 1
    )
    depth = gradio.Slider(
        min(depths, default=0),
        max(depths, default=0),
        value=max(depths, default=0),
        # The largest that meets all depths.
        step=math.gcd(*(one - min(depths) for one in depths)) or 1,
        label="Layers removed on the right",
        visible=len(set(depths)) > 1,
        elem_id="depth",
        buttons=[],
    )
    return audio, task, depth


def serve(
    sources: Sequence[str],
    host: str = "127.0.0.1",
    port: int | None = None,
    table: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    tell: Any = print,
    block: bool = True,
) -> tuple[Any, str]:
    """Load exports and serve the page; gives Gradio's page and its address.

    The port is the first free one from 7860 on, unless one is named.
    """
    library()
    shown = RedundancyTable.load(table) if table else None
    systems = load_systems(sources, device, dtype)
    if shown and shown.num_layers != systems[0].layers:
        raise ValueError(
            f"{table}: is of {shown.num_layers} layers, the models have "
            f"{systems[0].layers}: give their backbone's table"
        )
    page, how = build(systems, shown)
    _, address, _ = page.launch(
        server_name=host, server_port=port, prevent_thread_lock=True, **how
    )
    tell(f"The page is at {address} (Ctrl-C stops it)")
    if block:
        try:
            threading.Event().wait()
        finally:
            page.close()
    return page, address
