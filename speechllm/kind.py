"""What transformers knows an export by, and takes its waveforms as."""

MODEL_TYPE = "speechllm"
# Hz, of every speech encoder here.
SAMPLING_RATE = 16_000
