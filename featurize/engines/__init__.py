"""Where parts are made: one file per engine, each with ``run(job) -> exit code``."""
