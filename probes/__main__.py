"""Entry point of the `probe` command."""

from featurize.commands import probe as main

if __name__ == "__main__":
    main()
