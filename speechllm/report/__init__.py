"""Tables and pictures of a study, from its result files alone.

``python -m speechllm.report RESULTS_FOLDER --output FOLDER`` writes

* ``report.html``: everything on one page that needs no other file: the paper's
  claims with their verdicts, its tables and figures, costs and thresholds;
* ``report.md`` with ``figure1``, ``figure2``, ``costs`` and ``frontier``, each
  as PNG and PDF: the same in parts;
* ``summary.json``: a record for each run;
* ``table.md``: the paper's Table 1 with a row for each run, printed too;
* ``heatmap.png``: the redundancy tables there, as in the paper's Figure 1;
* ``curves.png``: the paper's Figure 2, in the width that was asked for.
"""

from speechllm.report.command import main
from speechllm.report.maps import draw_heatmaps, read_tables
from speechllm.report.summary import summarise

__all__ = ["draw_heatmaps", "main", "read_tables", "summarise"]
