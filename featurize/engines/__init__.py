"""Where parts are made: one file an engine, each with ``run(job) -> exit code``."""
