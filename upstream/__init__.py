"""Lay the project over a checkout of SpeechBrain, ready for a pull request.

``python -m upstream CHECKOUT`` plans every file, writes the plan, and runs
SpeechBrain's own checks there; see CONTRIBUTING.md.
"""
