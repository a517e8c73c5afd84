"""From recordings and transcripts to batches."""
