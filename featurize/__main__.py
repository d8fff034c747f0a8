"""Entry point of the `featurize` command."""

from featurize.commands import featurize as main

if __name__ == "__main__":
    main()
