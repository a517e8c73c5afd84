"""A page to try speech LLMs on: the whole one beside the pruned ones."""
