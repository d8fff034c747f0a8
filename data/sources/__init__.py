"""One file a dataset; the file's name is the dataset's name on the command line."""
