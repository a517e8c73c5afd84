"""A pruned, healed speech LLM as plain Hugging Face and PEFT folders.

Authors
 * The speechbrain_ext authors, 2026
"""

from speechbrain_ext.export.folder import ExportFolder
from speechbrain_ext.export.layout import ExportError, TaskSettings

__all__ = ["ExportError", "ExportFolder", "TaskSettings"]
