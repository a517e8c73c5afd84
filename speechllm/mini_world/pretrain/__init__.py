"""Small models in the real architectures, and their pretraining."""
