"""Datasets and the contracts that the stages share; the lowest layer, imports no other room."""
