"""How much of what pruning costs each healing leaves, against the paper's.

Authors
 * The speechbrain_ext authors, 2026
"""

from speechbrain_ext.report.healing.ratios import HealingStudy, comparisons

__all__ = ["HealingStudy", "comparisons"]
