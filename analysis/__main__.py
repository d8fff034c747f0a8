"""Entry point of the `analyze` command."""

from data.launch import launch


def main() -> None:
    """Run the command."""
    launch("analysis")


if __name__ == "__main__":
    main()
