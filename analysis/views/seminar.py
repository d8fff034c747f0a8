"""Seminar on DOFA and BigEarthNet: published values, your values and differences; UMAP panels; F2 per class."""

from analysis.card import ViewCard
from analysis.contract import Output, ViewRequest
from analysis.studies import seminar

CARD = ViewCard(input="runs")


def run(request: ViewRequest) -> list[Output]:
    """Write the table and the figures of one model on one dataset, and a page that holds them together."""
    return seminar.write(request)
