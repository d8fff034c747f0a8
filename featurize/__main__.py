"""Entry point of the `featurize` command."""

from data.launch import launch


def main() -> None:
    """Run the command."""
    launch("featurize")


if __name__ == "__main__":
    main()
