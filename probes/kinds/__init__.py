"""One file per probe kind; the file's name is the kind's name on the command line."""
