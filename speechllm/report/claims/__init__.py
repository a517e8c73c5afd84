"""The paper's six claims, each with what a study says to it."""

from speechllm.report.claims.paths import across_tasks, text_and_speech
from speechllm.report.claims.sizes import adaptation, bigger_lose_more
from speechllm.report.claims.strategies import healing_order, savings
from speechllm.report.tables import Table

__all__ = ["all_claims", "claims_table"]


def all_claims(cells, tables):
    """The six claims in order."""
    return [
        text_and_speech(cells, tables),
        bigger_lose_more(cells),
        healing_order(cells),
        adaptation(cells, tables),
        across_tasks(cells),
        savings(cells),
    ]


def claims_table(claims):
    """The claims as a table: a row for each statistic."""
    rows = []
    for claim in claims:
        verdict = claim.verdict
        if claim.missing:
            verdict += f" (missing: {claim.missing})"
        rows.append([str(claim.number), claim.says, "", "", "", verdict])
        rows += [
            [
                "",
                part.says,
                part.wanted or "told, not tested",
                part.value(),
                part.paper,
                part.verdict or "",
            ]
            for part in claim.parts
        ]
    header = "Claim,Statistic,Claimed,Here (95 % interval),Paper,Verdict"
    return Table(header.split(","), rows)
