"""The counts of a campaign, as docs/reliability.md has them."""

import json
from pathlib import Path

from speechllm.report.tables import markdown_table

# What the page calls the families, in its order.
FAMILIES = {
    "kills": "Kills",
    "disks": "Disks",
    "power": "Power",
    "processes": "Processes",
    "inputs": "Inputs: files of ours",
    "recordings": "Inputs: recordings and lists",
    "numbers_kept": "Numbers that stay",
    "long_runs": "Long runs",
    "supply": "Supply chain",
}


def figures(file: Path) -> dict[str, str]:
    """Texts by name, of what a campaign counted and what caught the breaks."""
    told = json.loads(Path(file).read_text(encoding="utf-8"))
    breaks = Path(file).with_name("breaks.json").read_text(encoding="utf-8")
    return {
        "reliability-made": made(told),
        "reliability": table(told),
        "reliability-breaks": broken(json.loads(breaks)["breaks"]),
    }


def broken(rows: list[dict]) -> str:
    """A row for each break, with the first word of what caught it."""
    names = "break", "caught by", "which said"
    return markdown_table(
        names,
        [
            (
                one["break"],
                FAMILIES[one["family"]] if one["told"] else "NOT caught",
                f"`{one['told']}`" if one["told"] else "",
            )
            for one in rows
        ],
    )


def made(told: dict) -> str:
    """How large the campaign was, where and with what."""
    parts = told["families"].values()
    quick = [
        FAMILIES[n] for n, p in told["families"].items() if p["size"] != "full"
    ]
    size = "A full campaign"
    if quick:
        size = f"A full campaign, of {', '.join(quick)} a quick one"
    if len(quick) == len(parts):
        size = "A quick campaign"
    cases = sum(k["cases"] for p in parts for k in p["kinds"].values())
    survived = sum(k["survived"] for p in parts for k in p["kinds"].values())
    minutes = sum(p["seconds"] for p in parts) / 60
    packages = ("python", "torch", "transformers", "speechbrain", "av")
    versions = ", ".join(f"{n} {told['versions'][n]}" for n in packages)
    return (
        f"{size}, seed {told['seed']}: {cases:,} faults, "
        f"{survived:,} of them survived; {minutes:.0f} minutes of one core "
        f"({told['machine']}; {versions})."
    )


def table(told: dict) -> str:
    """A row for each kind of fault."""
    rows = []
    for family, title in FAMILIES.items():
        kinds = told["families"].get(family, {}).get("kinds", {})
        rows += [
            (
                title if at == 0 else "",
                kind,
                f"{one['cases']:,}",
                f"{one['survived']:,}",
            )
            for at, (kind, one) in enumerate(kinds.items())
        ]
        if not kinds:
            rows.append((title, "not run", "", ""))
    return markdown_table(("family", "fault", "injected", "survived"), rows)
