"""A report as a page for people and as CSV for a spreadsheet."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, fields
from html import escape

from regime.parity import ColumnComparison, ParityReport
from regime.parity.findings import at
from regime_service.parity import words

_STYLE = """
body { margin: 0; color: #1f2933; font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 36px; }
.verdict { border-left: 4px solid #a86500; background: #f5f7f9; padding: 10px 16px; } .clean { border-color: #00694c; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 4px 10px 4px 0; border-bottom: 1px solid #dfe4ea; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } tr.over td:first-child { font-weight: 600; }
"""


def columns_csv(report: ParityReport) -> str:
    """Return all figures of all columns; an empty cell is "undefined"."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [item.name for item in fields(ColumnComparison)]
    writer.writerow(names)
    for column in report.columns:
        figures = asdict(column)
        writer.writerow(["" if figures[name] is None else figures[name] for name in names])
    return text.getvalue()


def page(report: ParityReport, title: str, said: list[str]) -> str:
    """Return the report as one HTML file that asks nobody for anything."""
    verdict = report.verdict
    parts = [
        f'<div class="verdict{" clean" if report.clean else ""}"><b>Verdict: {escape(verdict.sentence)}.</b>',
        *(f"<p>{escape(sentence)}</p>" for sentence in verdict.evidence),
        f"<p><b>What to do:</b> {escape(verdict.do)}</p></div>",
        f"<p>{escape(words.matching(report))}</p>",
    ]
    for side, alone in (("LIVE", report.live_only), ("BACKTEST", report.backtest_only)):
        parts += [f"<p>{escape(sentence)}</p>" for sentence in words.unmatched(side, alone)]
    for finding in report.findings[1:]:
        parts.append(f"<h2>Also: {escape(finding.title)} ({finding.share:.0%} of what differs)</h2>")
        parts += [f"<p>{escape(sentence)}</p>" for sentence in (*finding.evidence, finding.do)]
    parts += [f"<p>{escape(sentence)}</p>" for sentence in words.probabilities(report)]
    parts += [f"<p>{escape(note)}</p>" for note in (*report.notes, *said)]
    parts.append("<h2>Columns</h2>")
    heads = [item.name.removesuffix("_ms").replace("_", " ") for item in fields(ColumnComparison)]
    rows = []
    agreeing = [column for column in report.columns if not column.over and report.matched]
    for column in [*words.worst_first(report), *agreeing]:
        cells = "".join(f"<td>{_cell(name, value)}</td>" for name, value in asdict(column).items())
        rows.append(f"<tr{' class=over' if column.over else ''}>{cells}</tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    parts.append(f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>')
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main><h1>{escape(title)}</h1>"
        + "\n".join(parts) + "</main></body></html>\n"
    )  # fmt: skip


def _cell(name: str, value: object) -> str:
    if value is None:
        return ""
    if name.endswith("_ms") and isinstance(value, int):
        return at(value)
    return f"{value:.6g}" if isinstance(value, float) else escape(str(value))
