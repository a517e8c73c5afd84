"""A small spoken world, in the layouts of the real corpora.

Sentences with true translations, speech made by espeak-ng, and small
pretrained models in the architectures of the real ones: enough to run every
recipe on a laptop, without a download, with behaviour that was learned.
"""
