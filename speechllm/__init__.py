"""Tools around pruned speech LLMs: command line, exports, reports, the mini world."""
