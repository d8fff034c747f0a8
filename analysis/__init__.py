"""Tables, figures and the report from runs on disk: the `analyze` command."""
