"""Load an exported speech LLM and use it.

    from speechbrain_ext.inference import SpeechLLM

    model = SpeechLLM.from_pretrained("exported-folder-or-hub-id")
    print(model.transcribe("some.wav").text)

Authors
 * The speechbrain_ext authors, 2026
"""

from speechbrain_ext.inference.interface import SpeechLLMInterface
from speechbrain_ext.inference.model import SpeechLLM
from speechbrain_ext.inference.results import Piece, Transcript

__all__ = ["Piece", "SpeechLLM", "SpeechLLMInterface", "Transcript"]
