"""Georeferenced rasters larger than a model's input: files and products, windows cut from them, and labels on them."""
