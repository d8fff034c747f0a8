"""Entry point of the `probe` command."""

from data.launch import launch


def main() -> None:
    """Run the command."""
    launch("probes")


if __name__ == "__main__":
    main()
