"""From two tables to a verdict: match, measure, ask every cause in turn, rank what they explain.

The order of asking is from exact to likely: what makes two columns equal when it is undone (another name, a shift, a
line, a total, a filling, decimals) is believed before what only fits (a forming candle, another feed, a warm-up, a
window, a model). What one cause explains the next ones do not see. Differences of features on candles that differ, and
of probabilities on candles whose inputs differ, follow from those, and count for their cause.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from regime.parity.causes.claim import Claim
from regime.parity.causes.clock import Alignment, align, shifted_columns
from regime.parity.causes.columns import absent, swapped
from regime.parity.causes.history import by_memory, exponential, warm_up
from regime.parity.causes.holes import filled
from regime.parity.causes.market import by_features, forming, other_feed
from regime.parity.causes.model import not_the_clock, other_model
from regime.parity.causes.scale import cumulative, rounded, scaled
from regime.parity.causes.window import normalised, smoothed
from regime.parity.findings import CAUSES, Finding, at, candles, some
from regime.parity.statistics import (
    ColumnComparison,
    ProbabilityComparison,
    compare_columns,
    compare_distributions,
    compare_probabilities,
    usual_range,
)
from regime.parity.table import Mask, Pair, Table, Tolerance, kind, pair, usual_step_ms

ROWS_MIN = 30
"""Candles in common under which nothing is called clean: two compared points have been taken for proof before."""
UNIT_RATIO = 20.0
"""Where no candle is in common, a column this many times wider (or narrower) is another unit."""

FLAG_SHARE = 0.9
"""A flag that differs on candles of which this share has a cause follows from it."""

CLEAN, TOO_FEW, APART = "clean", "too-few-candles", "no-candle-in-common"


@dataclass(frozen=True, slots=True)
class Unmatched:
    """Rows of one side without a partner: before the other side begins, among its rows, after it ends."""

    rows: int
    before: int
    among: int
    after: int
    first_ms: int | None
    """Candle of the first one that lies among the other side's rows."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line to act on. `cause` is a code of `findings.CAUSES`, or `clean`, `too-few-candles`,
    `no-candle-in-common`."""

    cause: str
    sentence: str
    evidence: tuple[str, ...]
    do: str


@dataclass(frozen=True, slots=True)
class ParityReport:
    """Everything that was found. All figures of columns are on the candles as the files label them, before any shift
    that the verdict may name is undone."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    """The verdict's cause first, the rest in the order in which to look at them."""
    step_ms: int
    live_rows: int
    backtest_rows: int
    matched: int
    from_ms: int | None
    to_ms: int | None
    live_only: Unmatched
    backtest_only: Unmatched
    differing_candles: int
    """Candles on which at least one column is beyond the tolerance."""
    columns: tuple[ColumnComparison, ...]
    probabilities: tuple[ProbabilityComparison, ...]
    columns_live_only: tuple[str, ...]
    columns_backtest_only: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def clean(self) -> bool:
        return self.verdict.cause == CLEAN

    @property
    def conclusive(self) -> bool:
        """Whether anything was found, or enough candles were compared to say that there is nothing."""
        return self.verdict.cause not in (TOO_FEW, APART)


Step = Callable[[str], None]
"""Called with what is done next."""


def compare(
    live: Table,
    backtest: Table,
    *,
    step_ms: int | None = None,
    tolerance: Tolerance | None = None,
    progress: Step | None = None,
) -> ParityReport:
    """Compare what the bot saw with what its backtest saw, and name the likeliest cause of what differs.

    `step_ms` is the length of a candle; without it the commonest distance of rows. Raises `ValueError` where there
    is no row, no column in common, or the two sides have candles of different lengths.

    When a verdict misleads. A cause is named because it explains most of the values that differ, not because it was
    seen to happen: two faults at once are both listed, but one may hide the other, above all under candles from another
    feed, to which every difference of a feature is put down. "Clean" is about the columns and candles that are in both
    files and nothing else. How often each cause is named first where it was planted, and how often something is named
    where nothing was: `docs/measurements/parity.md`.
    """
    # Values of any size are compared: what overflows or is no number is told apart where it matters.
    with np.errstate(all="ignore"):
        return _compare(live, backtest, step_ms, tolerance or Tolerance(), progress)


def _compare(
    live: Table, backtest: Table, step_ms: int | None, tolerance: Tolerance, progress: Step | None
) -> ParityReport:
    say = progress or (lambda _: None)
    step = _step(live, backtest, step_ms)
    say("matching candles")
    plain = pair(live, backtest, step, tolerance=tolerance)
    if not plain.names:
        raise ValueError(
            f"the two sides have no column in common: LIVE has {some(live.names)}, BACKTEST {some(backtest.names)}; "
            "give them the same names (mapping key `rename`)"
        )
    alignment = None
    if plain.over.any() or plain.rows < 0.5 * min(len(live.ts_ms), len(backtest.ts_ms)):
        say("looking for another clock")
        alignment = align(live, backtest, step, tolerance)
    pairing = plain if alignment is None else pair(alignment.live, backtest, step, tolerance=tolerance)
    if not pairing.rows:
        return _apart(plain)
    say("looking for causes")
    claims = _diagnose(pairing)
    found = _findings(plain, pairing, alignment, claims)
    say("comparing columns")
    columns = compare_columns(plain)
    notes = _notes(pairing)
    return _report(plain, found, _verdict(plain, pairing, found), columns, notes)


def _step(live: Table, backtest: Table, step_ms: int | None) -> int:
    for table, name in ((live, "LIVE"), (backtest, "BACKTEST")):
        if not len(table.ts_ms):
            raise ValueError(f"{name} has no rows")
    own = [usual_step_ms(table) if len(table.ts_ms) >= 10 else None for table in (live, backtest)]
    if own[0] and own[1] and max(own[0], own[1]) % min(own[0], own[1]) == 0 and own[0] != own[1]:
        longer, shorter = max(own[0], own[1]) // 60_000, min(own[0], own[1]) // 60_000
        raise ValueError(
            f"rows of LIVE are {own[0] // 60_000} min apart, rows of BACKTEST {own[1] // 60_000} min: give both in "
            f"the same "
            f"timeframe ({longer} min candles cannot be compared with {shorter} min ones)"
        )
    step = step_ms or usual_step_ms(live, backtest)
    if step is None:
        raise ValueError("one row on each side is no log: the length of a candle is not known")
    return step


# --- causes ---------------------------------------------------------------------------------------------------------


def _diagnose(pairing: Pair) -> list[Claim]:
    left = pairing.over.copy()
    claims = absent(pairing)
    for claim in claims:
        left &= ~claim.cells

    def ask(*searches: Callable[[Pair, Mask], list[Claim]]) -> None:
        for search in searches:
            if left.any():
                for claim in search(pairing, left):
                    claims.append(claim)
                    np.logical_and(left, ~claim.cells, out=left)

    ask(shifted_columns, swapped, scaled, exponential, cumulative, smoothed, rounded, forming, other_feed, by_features)
    _follow(pairing, claims, left, from_kinds=("candle",), to="feature", later=True)
    ask(warm_up, filled, by_memory, normalised)
    _flags_follow(pairing, claims, left)
    if not any(claim.absent for claim in claims):
        ask(other_model)
    _follow(pairing, claims, left, from_kinds=("candle", "feature"), to="probability", later=False)
    if left.any():
        claims.append(_unexplained(pairing, left))
    return claims


def _follow(
    pairing: Pair, claims: list[Claim], left: Mask, *, from_kinds: tuple[str, ...], to: str, later: bool
) -> None:
    """Put differences of `to` down to the largest claim on what they are made of: on the same candles, or (`later`,
    averages remember) from its first candle on."""
    sources = pairing.places(*from_kinds)
    targets = pairing.places(to)
    if not targets or not left[:, targets].any():
        return
    upstream = [
        (int(claim.cells[:, sources].sum()) + claim.absent, i)
        for i, claim in enumerate(claims)
        if claim.cells[:, sources].any() or (claim.absent and to == "probability")
    ]
    for _, i in sorted(upstream, reverse=True):
        claim = claims[i]
        rows: Mask = np.ones(pairing.rows, dtype=bool)
        if not claim.absent:
            rows = claim.cells[:, sources].max(axis=1)
            rows = np.logical_or.accumulate(rows) if later else rows
        follows = left & rows[:, None]
        follows[:, [c for c in range(len(pairing.names)) if c not in targets]] = False
        if follows.any():
            names = [pairing.names[c] for c in np.flatnonzero(follows.any(axis=0)).tolist()]
            word = "features made of them" if to == "feature" else "probabilities made of them"
            said = (*claim.evidence, f"The {word} differ, too: {some(names)}.")
            claims[i] = Claim(
                claim.cause, claim.columns, claim.cells | follows, said, claim.exact, claim.absent, claim.first_ms
            )
            left &= ~follows


def _flags_follow(pairing: Pair, claims: list[Claim], left: Mask) -> None:
    """Put a flag or count that differs only where a feature with a cause does down to that cause: it is made of it."""
    for c in pairing.places("feature"):
        if not left[:, c].any() or pairing.continuous(c):
            continue
        rows = left[:, c]
        shares = [claim.cells[rows].any(axis=1).mean() for claim in claims]
        if shares and max(shares) >= FLAG_SHARE:
            i = int(np.argmax(shares))
            claims[i].cells[rows, c] = True
            left[:, c] = False


def _unexplained(pairing: Pair, left: Mask) -> Claim:
    places = np.flatnonzero(left.any(axis=0)).tolist()
    names = [pairing.names[c] for c in places]
    rows = left.any(axis=1)
    first = int(pairing.ts_ms[np.argmax(rows)])
    said = [
        f"{some(names)}: beyond the tolerance on {candles(int(rows.sum()))} of {pairing.rows:,}, the first {at(first)}."
    ]
    answers = [c for c in places if kind(pairing.names[c]) == "probability"]
    if answers:
        figures = {column.name: column for column in compare_columns(pairing)}
        lags = []
        for c in answers:
            column = figures[pairing.names[c]]
            if column.correlation is not None and column.best_lag is not None and column.lag_correlation is not None:
                lags.append((column.name, column.correlation, column.best_lag, column.lag_correlation))
        said += not_the_clock(pairing, answers, lags)
    return Claim("unexplained", tuple(names), left.copy(), tuple(said), exact=False)


def _findings(plain: Pair, pairing: Pair, alignment: Alignment | None, claims: list[Claim]) -> list[Finding]:
    """Rank what was found by how much it explains; where two explain much alike, what lies upstream comes first."""
    absent_cells = sum(claim.absent for claim in claims)
    total = max(int(plain.over.sum()), int(pairing.over.sum())) + absent_cells
    moved = 0
    if alignment is not None:
        moved = max(total - absent_cells - int(pairing.over.sum()), 0)
        if not plain.rows:
            # Nothing was matched before: everything that is compared now is owed to the shift.
            total += pairing.over.size
            moved = pairing.over.size
    found: list[Finding] = []
    if alignment is not None:
        cause = CAUSES[alignment.cause]
        found.append(
            Finding(
                cause.code, cause.title, alignment.evidence, cause.do, pairing.names, moved, moved / max(total, 1),
                True, alignment.first_ms,
            )
        )  # fmt: skip
    merged: dict[str, list[Claim]] = {}
    for claim in claims:
        merged.setdefault(claim.cause, []).append(claim)
    for code, same in merged.items():
        cause = CAUSES[code]
        cells = sum(int(claim.cells.sum()) + claim.absent for claim in same)
        rows = np.logical_or.reduce([claim.cells.any(axis=1) for claim in same])
        found.append(
            Finding(
                code, cause.title, tuple(sentence for claim in same for sentence in claim.evidence), cause.do,
                tuple(dict.fromkeys(name for claim in same for name in claim.columns)), cells, cells / max(total, 1),
                all(claim.exact for claim in same), int(pairing.ts_ms[np.argmax(rows)]) if rows.any() else None,
            )
        )  # fmt: skip
    return sorted(found, key=_order)


def _order(finding: Finding) -> tuple[float, int]:
    # A cause that explains a third is worth more than not knowing about two thirds.
    weight = finding.share * (0.4 if finding.cause == "unexplained" else 1.0)
    return -round(weight, 1), CAUSES[finding.cause].rank


# --- words ----------------------------------------------------------------------------------------------------------


def _verdict(plain: Pair, pairing: Pair, found: list[Finding]) -> Verdict:
    if not found:
        if plain.rows < ROWS_MIN:
            return Verdict(
                TOO_FEW, f"nothing can be said: only {candles(plain.rows)} in common, and none of them differs",
                (f"At least {ROWS_MIN} are needed before anything is called clean.",),
                "Give logs of the same hours on both sides.",
            )  # fmt: skip
        valued = (np.isfinite(plain.x) & np.isfinite(plain.y)).sum(axis=0)
        empty = [name for name, count in zip(plain.names, valued.tolist(), strict=True) if not count]
        if valued.max() < ROWS_MIN:
            return Verdict(
                TOO_FEW, f"nothing can be said: no column has a value on both sides on more than "
                f"{candles(int(valued.max()))}",
                (f"At least {ROWS_MIN} are needed before anything is called clean.",),
                "Look why the columns are empty, or read them under their right names (mapping key `rename`).",
            )  # fmt: skip
        number = len(plain.names) - len(empty)
        agreeing = "1 column agrees" if number == 1 else f"{number} columns agree"
        unseen = (f"Without any value, and so not compared: {some(empty)}.",) if empty else ()
        return Verdict(
            CLEAN, f"clean: {agreeing} on all of {candles(plain.rows)} in common", unseen,
            "Nothing: what differs between live and backtest is not in these columns.",
        )  # fmt: skip
    first = found[0]
    sentence = first.title
    if first.cause == "unexplained" and all(kind(name) == "probability" for name in first.columns):
        sentence = "not a look-back problem: no lag or window explains it"
        if not plain.places("feature", "candle"):
            sentence += " (another model, or the same one fed with other features)"
    if first.share < 0.9 and len(found) > 1:
        sentence += f"; it accounts for {first.share:.0%} of what differs"
    return Verdict(first.cause, sentence, first.evidence, first.do)


def _notes(pairing: Pair) -> tuple[str, ...]:
    said = []
    extra = [name for name in pairing.live.names if name not in pairing.backtest.names]
    if extra:
        said.append(f"Only LIVE has {some(extra)}: not compared; a model trained without a column cannot miss it.")
    lacking = {name for name in pairing.backtest.names if name not in pairing.live.names}
    lacking -= {name for claim in absent(pairing) for name in claim.columns}
    if lacking:
        said.append(
            f"Only BACKTEST has {some(sorted(lacking))}: taken for prices or labels of the training, not for inputs."
        )
    if 0 < pairing.rows < ROWS_MIN:
        said.append(f"Only {candles(pairing.rows)} are in common: read every figure with that in mind.")
    return tuple(said)


def _report(
    plain: Pair, found: list[Finding], verdict: Verdict, columns: tuple[ColumnComparison, ...], notes: tuple[str, ...]
) -> ParityReport:
    live, backtest = plain.live, plain.backtest
    return ParityReport(
        verdict=verdict, findings=tuple(found), step_ms=plain.step_ms, live_rows=len(live.ts_ms),
        backtest_rows=len(backtest.ts_ms), matched=plain.rows,
        from_ms=int(plain.ts_ms[0]) if plain.rows else None, to_ms=int(plain.ts_ms[-1]) if plain.rows else None,
        live_only=_unmatched(live, backtest, plain.rows_live),
        backtest_only=_unmatched(backtest, live, plain.rows_backtest),
        differing_candles=int(plain.over.any(axis=1).sum()), columns=columns,
        probabilities=compare_probabilities(plain),
        columns_live_only=tuple(n for n in live.names if n not in backtest.names),
        columns_backtest_only=tuple(n for n in backtest.names if n not in live.names), notes=notes,
    )  # fmt: skip


def _unmatched(own: Table, other: Table, partners: np.ndarray) -> Unmatched:
    alone = np.ones(len(own.ts_ms), dtype=bool)
    alone[partners] = False
    ts = own.ts_ms[alone]
    before, after = ts < other.ts_ms[0], ts > other.ts_ms[-1]
    among = ts[~before & ~after]
    return Unmatched(len(ts), int(before.sum()), len(among), int(after.sum()), int(among[0]) if len(among) else None)


def _apart(plain: Pair) -> ParityReport:
    """No candle in common at any offset: names and distributions are all there is to compare."""
    columns = compare_distributions(plain.live, plain.backtest)
    units = []
    for column in columns:
        a, b = (usual_range(table.column(column.name)) for table in (plain.live, plain.backtest))
        if a and b and not 1 / UNIT_RATIO < a / b < UNIT_RATIO:
            units.append(f"{column.name}: LIVE's usual range is {a / b:.3g} times BACKTEST's")
    found = _findings(plain, plain, None, absent(plain))
    if units:
        cause = CAUSES["unit"]
        names = tuple(said.split(":")[0] for said in units)
        found.insert(
            0,
            Finding("unit", cause.title, (some(units, 4) + ", in other hours.",), cause.do, names, 0, 0.0, False, None),
        )
    if found:
        first = found[0]
        verdict = Verdict(
            first.cause, f"{first.title} (no candle in common: by names and distributions)", first.evidence, first.do
        )
    else:
        verdict = Verdict(
            APART, "no candle is in both files: the same columns, but parity cannot be judged",
            (f"LIVE covers {at(int(plain.live.ts_ms[0]))} to {at(int(plain.live.ts_ms[-1]))}, BACKTEST "
             f"{at(int(plain.backtest.ts_ms[0]))} to {at(int(plain.backtest.ts_ms[-1]))} (UTC).",),
            "Run the backtest's code over the hours of the live log, and compare again.",
        )  # fmt: skip
    return _report(plain, found, verdict, columns, _notes(plain))
