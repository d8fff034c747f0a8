"""One file per dataset; the file's name is the dataset's name on the command line."""
