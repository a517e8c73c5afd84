"""Tables and pictures of a study, from its result files alone.

``python -m speechllm.report RESULTS_FOLDER --output FOLDER`` writes

* ``report.html``: everything on one page that needs no other file: the paper's
  claims with their verdicts, its tables and figures, costs and thresholds;
* ``report.md`` with ``figure1``, ``figure2``, ``costs`` and ``frontier``, each
  as PNG and PDF: the same in parts;
* ``summary.json``: a record for each run;
* ``table.md``: the paper's Table 1 for this study, printed too;
* ``heatmap.png``: the paper's Figure 1, from the redundancy tables there;
* ``curves.png``: the paper's Figure 2.
"""

from speechllm.report.command import main
from speechllm.report.curves import draw_curves
from speechllm.report.heatmaps import draw_heatmaps, read_tables
from speechllm.report.summary import summarise
from speechllm.report.table import table_text

__all__ = [
    "draw_curves",
    "draw_heatmaps",
    "main",
    "table_text",
    "read_tables",
    "summarise",
]
