"""Entry point of the `analyze` command."""

from featurize.commands import analyze as main

if __name__ == "__main__":
    main()
