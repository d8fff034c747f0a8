"""Ways to run the pipeline: one process, many GPUs, many machines."""
