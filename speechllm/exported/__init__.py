"""Load an exported speech LLM and use it.

from speechllm.exported import SpeechLLM

model = SpeechLLM.from_pretrained("exported-folder-or-hub-id")
print(model.transcribe("some.wav").text)
"""

from speechllm.exported.model import SpeechLLM, SpeechLLMInterface
from speechllm.exported.transcribe import Piece, Transcript

__all__ = ["Piece", "SpeechLLM", "SpeechLLMInterface", "Transcript"]
