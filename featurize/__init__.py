"""Frozen foundation models over satellite patches: the `featurize` command."""
