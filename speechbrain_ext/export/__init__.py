"""A pruned, healed speech LLM as plain Hugging Face and PEFT folders.

    from speechbrain_ext.export import export_runs

    export_runs(["results/qwen7b_prune"], "my-speech-llm")

Authors
 * The speechbrain_ext authors, 2026
"""

from speechbrain_ext.export.folder import ExportFolder
from speechbrain_ext.export.hub import push
from speechbrain_ext.export.layout import ExportError, TaskSettings
from speechbrain_ext.export.write import export_runs

__all__ = ["ExportError", "ExportFolder", "TaskSettings", "export_runs", "push"]
