"""The report: one self-contained HTML page of every run found."""
