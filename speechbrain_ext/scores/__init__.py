"""Scores of recognition and translation, and what pruning does to them.

Word error rates are in per cent, taken over a whole set (all errors over all
reference words), after Whisper's text normaliser for the set's language.
Translation is scored by SacreBLEU, its tokenizer that of the target language.
Intervals come from leaving out each speaker.
"""
