"""One file per view; the file's name is the subcommand."""
