"""Sentences with true translations, spoken, in the real corpora's layouts."""
