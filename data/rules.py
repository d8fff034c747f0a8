"""Decision rules of a run: how scores become decisions."""

from data.errors import unknown

# half: 0.5 for each class; tuned: per-class thresholds chosen on val. Single-label runs take the argmax under both.
RULES = ("half", "tuned")


def rules_of(multilabel: bool) -> tuple[str, ...]:
    """The rules whose decisions can differ: both for multi-label runs, one for single-label runs."""
    return RULES if multilabel else RULES[:1]


def rule_name(rule: str, multilabel: bool) -> str:
    """A rule as tables name it: ``argmax`` for single-label runs."""
    return rule if multilabel else "argmax"


def check_rule(rule: str) -> None:
    """Raise a RequestError unless there is such a rule."""
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
