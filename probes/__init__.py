"""Classical classifiers on kept embeddings: the `probe` command."""
