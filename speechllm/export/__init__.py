"""A pruned, healed speech LLM as plain Hugging Face and PEFT folders.

from speechllm.export import export_runs

export_runs(["results/qwen7b_prune"], "my-speech-llm")
"""

from speechllm.export.hub import push
from speechllm.export.write import export_runs
from speechllm.exported.format import ExportError, ExportFolder, TaskSettings

__all__ = ["ExportError", "ExportFolder", "TaskSettings", "export_runs", "push"]
