"""One file a view; the file's name is the subcommand."""
