"""The speech LLM: frozen encoder, trained projector, frozen decoder."""
