"""A report in words: the verdict first, then what it rests on, then everything else."""

from __future__ import annotations

from collections.abc import Iterator

from regime.parity import ColumnComparison, ParityReport, Unmatched
from regime.parity.findings import at, candles, lasting

SHOWN_MAX = 20
_COLUMNS = ("column", "candles", "mean |d|", "max |d|", "mean rel.", "corr.", "lag", "over", "KS", "first over (UTC)")
_LAWS = ("column", "KS", "PSI", "mean LIVE", "mean BACKTEST", "sd LIVE", "sd BACKTEST")


def lines(report: ParityReport) -> Iterator[str]:
    """Say a report, line by line."""
    verdict = report.verdict
    yield f"Verdict: {verdict.sentence}."
    yield from (f"  {sentence}" for sentence in verdict.evidence)
    yield f"What to do: {verdict.do}"
    yield ""
    yield matching(report)
    yield from unmatched("LIVE", report.live_only)
    yield from unmatched("BACKTEST", report.backtest_only)
    for finding in report.findings[1:]:
        share = f"{finding.share:.0%} of what differs" if finding.share >= 0.005 else "little of what differs"
        yield f"Also found ({finding.cause}): {finding.title}; {share}."
        yield from (f"  {sentence}" for sentence in finding.evidence)
    yield from report.notes
    yield from probabilities(report)
    yield ""
    yield from table(report)


def probabilities(report: ParityReport) -> Iterator[str]:
    """Say what bot authors ask of probabilities."""
    for p in report.probabilities:
        yield (
            f"{p.name}: mean |difference| {p.mean_difference:.4f}, largest {p.largest_difference:.4f}, "
            f"{p.over_0_1:.1%} of candles above 0.1, {p.within_5_percent:.1%} within 5 %, same side of 0.5 on "
            f"{p.direction_agreement:.1%}, correlation {_number(p.correlation, '.3f')}."
        )


def matching(report: ParityReport) -> str:
    """Say what was compared with what."""
    period = (
        f", {at(report.from_ms)} to {at(report.to_ms)} UTC"
        if report.from_ms is not None and report.to_ms is not None
        else ""
    )
    return (
        f"{candles(report.matched)} of {lasting(report.step_ms)} in common ({report.live_rows:,} rows of LIVE, "
        f"{report.backtest_rows:,} of BACKTEST){period}; {report.differing_candles:,} of them differ in some column."
    )


def unmatched(side: str, alone: Unmatched) -> Iterator[str]:
    """Say which rows have no partner; nothing, where all have one."""
    if alone.rows:
        first = f" (the first {at(alone.first_ms)})" if alone.first_ms is not None else ""
        yield (
            f"Only in {side}: {alone.rows:,} rows, {alone.before:,} before the other side begins, {alone.among:,} "
            f"among its "
            f"rows{first}, {alone.after:,} after it ends."
        )


def table(report: ParityReport) -> Iterator[str]:
    """The columns that differ, most candles first; those that agree are counted. Without a candle in common: how
    far the
    distributions are apart."""
    if not report.matched:
        yield from _aligned(_LAWS, [_law(column) for column in worst_first(report)[:SHOWN_MAX]])
        return
    differing = worst_first(report)
    if differing:
        yield from _aligned(_COLUMNS, [_row(column) for column in differing[:SHOWN_MAX]])
    more, same = len(differing) - SHOWN_MAX, len(report.columns) - len(differing)
    if more > 0:
        yield f"... and {more} more columns that differ (--out or --json has them all)."
    if same:
        yield f"{same} column{'s' if same > 1 else ''} agree{'s' if same == 1 else ''} on every candle."


def _aligned(head: tuple[str, ...], body: list[tuple[str, ...]]) -> Iterator[str]:
    rows = [head, *body]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def worst_first(report: ParityReport) -> list[ColumnComparison]:
    """Columns that differ, those that do on most candles first; without a candle in common, all by their KS
    distance."""
    found = [column for column in report.columns if column.over or not report.matched]
    return sorted(found, key=lambda column: (-column.over, -(column.ks or 0.0), column.name))


def _law(column: ColumnComparison) -> tuple[str, ...]:
    return (
        column.name, _number(column.ks, ".3f"), _number(column.psi, ".2f"), _number(column.live_mean),
        _number(column.backtest_mean), _number(column.live_deviation), _number(column.backtest_deviation),
    )  # fmt: skip


def _row(column: ColumnComparison) -> tuple[str, ...]:
    lag = "" if column.best_lag is None else f"{column.best_lag:+d}" if column.best_lag else "0"
    return (
        column.name, f"{column.candles:,}", _number(column.mean_difference), _number(column.largest_difference),
        _number(column.relative_difference, ".2%"), _number(column.correlation, ".3f"), lag, f"{column.over_share:.1%}",
        _number(column.ks, ".3f"), at(column.first_over_ms) if column.first_over_ms is not None else "",
    )  # fmt: skip


def _number(value: float | None, form: str = ".4g") -> str:
    return "-" if value is None else format(value, form)
