"""Speech LLMs of transformers: measured, pruned and healed as they are.

`speechbrain_ext.layers.nested` says where each family keeps its decoder; here
is how each is asked (`prompts`) and what is done with the answer.
"""
