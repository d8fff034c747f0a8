"""Words that figures, tables and the page share."""


def with_simulated(title: str, simulated: bool) -> str:
    """A title, marked where the samples were generated and not observed."""
    return f"{title} (simulated data)" if simulated else title
