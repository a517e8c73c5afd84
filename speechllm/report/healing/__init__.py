"""How much of what pruning costs each healing leaves, against the paper's."""

from speechllm.report.healing.ratios import HealingStudy, comparisons

__all__ = ["HealingStudy", "comparisons"]
