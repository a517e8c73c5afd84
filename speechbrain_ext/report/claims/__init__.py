"""The paper's six claims, each with what a study says to it.

Authors
 * The speechbrain_ext authors, 2026
"""

from speechbrain_ext.report.claims.paths import across_tasks, text_and_speech
from speechbrain_ext.report.claims.sizes import adaptation, bigger_lose_more
from speechbrain_ext.report.claims.strategies import healing_order, savings
from speechbrain_ext.report.document import Table

__all__ = ["all_claims", "claims_table"]


def all_claims(cells, tables):
    """The six claims in order.

    Arguments
    ---------
    cells : speechbrain_ext.report.cells.Cells
        A study.
    tables : list of dict
        Its redundancy tables.

    Returns
    -------
    list of speechbrain_ext.report.claims.verdicts.Claim
    """
    return [
        text_and_speech(cells, tables),
        bigger_lose_more(cells),
        healing_order(cells),
        adaptation(cells, tables),
        across_tasks(cells),
        savings(cells),
    ]


def claims_table(claims):
    """The claims as a table: a row for each statistic.

    Arguments
    ---------
    claims : list of Claim
        As from `all_claims`.

    Returns
    -------
    speechbrain_ext.report.document.Table
    """
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
