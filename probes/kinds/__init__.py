"""One file a probe; the file's name is the probe's name on the command line."""
