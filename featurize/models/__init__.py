"""One file per model family; the file's name is the model's name on the command line."""
