"""The two studies that this project reproduces, and published numbers with their protocols."""
