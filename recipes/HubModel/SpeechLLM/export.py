#!/usr/bin/env python3
"""Write a healed speech LLM as a folder for the model's own class.

    python export.py results/pruned --output smaller
    python export.py results/pruned --output smaller --adapter

The first merges what was trained into the weights; the second leaves LoRA
beside them, as a PEFT adapter in smaller/adapter.
"""

import argparse

from speechllm.hub.export import export_hub

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="A finished run's folder.")
    parser.add_argument("--output", required=True, help="A new folder.")
    parser.add_argument(
        "--adapter", action="store_true", help="LoRA as a PEFT adapter."
    )
    words = parser.parse_args()
    export_hub(words.run, words.output, words.adapter)
    print(f"Wrote {words.output}")
