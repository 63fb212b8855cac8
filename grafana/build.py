"""The dashboards as code: writes `grafana/dashboards/*.json`, which Grafana reads.

    python grafana/build.py            # after a change here
    python grafana/build.py --check    # 1 if what is committed is not what would be written

Whatever a panel asks for is in the service's own metrics: no panel needs the recording rules. Colours mean the same on
every panel: green trades or is well, orange is paused or wants to be looked at, red is an operator's HALTED, a loss or
a fault.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from panels import Colour, Dashboard, Json, Override, Panel, Query, Row, Step, Variable

FOLDER = Path(__file__).parent / "dashboards"

# --- what several dashboards say -------------------------------------------------------------------------------------

LINES: Json = {"lineWidth": 1, "fillOpacity": 0, "showPoints": "never", "spanNulls": False}
STEPS: Json = {**LINES, "lineInterpolation": "stepAfter"}
LIMIT: Json = {**LINES, "thresholdsStyle": {"mode": "dashed"}}
STATES: dict[str, tuple[str, Colour]] = {
    "0": ("trades", "green"), "1": ("paused", "orange"), "2": ("HALTED", "red"),
}  # fmt: skip
KEYS = "model, symbol, timeframe"
TRADES_MIN = 10
"""With fewer trades a win rate is not shown: it jumps between 0 and 100 %, and somebody believes it."""


def state_of(selector: str) -> str:
    """0 trades, 1 paused, 2 halted; one series a side."""
    by = f"by ({KEYS}, side)"
    return (
        f'max {by} (regime_state{{{selector}, state="REDUCING"}})'
        f' + 2 * max {by} (regime_state{{{selector}, state="HALTED"}})'
    )


def _fixed(colour: Colour) -> Json:
    return {"color": {"mode": "fixed", "fixedColor": colour}}


def drift_of(selector: str) -> str:
    """Share of the alarm limit; a statistic far on the calm side is below 0, and no less calm at 0."""
    return f"clamp_min(regime_drift_statistic{{{selector}}} / regime_drift_limit{{{selector}}}, 0)"


def with_trades(metric: str, selector: str) -> str:
    """A figure made of trades, once there are enough of them to look at."""
    return f"{metric}{{{selector}}} and regime_win_ratio_trades{{{selector}}} >= {TRADES_MIN}"


def count_or_none(expr: str) -> str:
    """How many, 0 included: Prometheus counts nothing as nothing."""
    return f"count({expr}) or vector(0)"


def number(title: str, about: str, expr: str, *, width: int = 4, **more: Any) -> Panel:
    """One figure."""
    return Panel(title=title, about=about, kind="stat", queries=[Query(expr)], width=width, height=4, **more)


WELL_AT_0 = (Step(None, "green"), Step(1, "orange"))
BAD_FROM_1 = (Step(None, "green"), Step(1, "red"))


# --- all streams -----------------------------------------------------------------------------------------------------

_MODEL = 'model=~"$model"'
_STREAM_LEGEND = "{{model}} {{symbol}} {{timeframe}}"
_SIDE_LEGEND = f"{_STREAM_LEGEND} {{{{side}}}}"

FLEET = Dashboard(
    name="fleet",
    uid="regimegate-fleet",
    title="regimegate: all streams",
    about="Who trades, who is paused and why, and who will be next.",
    variables=[Variable("model", "Model", "regime_state", every=True)],
    parts=[
        number(
            "Sides that trade",
            "A stream has two sides, long and short; each is judged on its own.",
            f'sum(regime_state{{{_MODEL}, state="ACTIVE"}})',
            steps=(Step(None, "text"), Step(1, "green")),
        ),
        number(
            "Trading smaller",
            "They trade, but at a part of the usual size: probation after a pause, or a doubt.",
            count_or_none(f"regime_size_factor{{{_MODEL}}} > 0 < 1"),
            steps=WELL_AT_0,
        ),
        number(
            "Paused",
            "REDUCING: no new entries, exits are free. The table below says why.",
            f'sum(regime_state{{{_MODEL}, state="REDUCING"}})',
            steps=WELL_AT_0,
        ),
        number(
            "HALTED by an operator",
            "Never ends by itself: somebody must end the override.",
            f'sum(regime_state{{{_MODEL}, state="HALTED"}})',
            width=3,
            steps=BAD_FROM_1,
        ),
        number(
            "Would be paused",
            "In shadow mode a bot is told to trade whatever is found; these sides would be paused in `enforce`.",
            f'sum(regime_computed_state{{{_MODEL}, state="REDUCING"}}) or vector(0)',
            width=3,
            steps=WELL_AT_0,
        ),
        number(
            "Without fresh data",
            "Sides whose newest candle is older than the limit; they are paused.",
            count_or_none(f'regime_reason{{{_MODEL}, reason="stale"}} == 1'),
            width=3,
            steps=BAD_FROM_1,
        ),
        number(
            "Alerts that fire",
            "In this Prometheus, of this project's rules; 0 as well where they are not loaded.",
            count_or_none('ALERTS{alertname=~"Regime.+", alertstate="firing"}'),
            width=3,
            steps=BAD_FROM_1,
        ),
        Panel(
            title="State of every side",
            kind="state-timeline",
            width=24,
            height=9,
            about="Green trades, orange is paused (no new entries, exits are free), red an operator halted.",
            queries=[Query(state_of(_MODEL), _SIDE_LEGEND)],
            names=STATES,
            custom={"fillOpacity": 80, "lineWidth": 0},
        ),
        Panel(
            title="Why: every reason that stands now",
            kind="table",
            width=12,
            height=9,
            about="A reason may pause, make choosier or trade smaller. `regime_reason`; the sentence is in the page of "
            "the service and in /v1/explain. What each means and what to do: docs/runbook.md.",
            queries=[Query(f"max by ({KEYS}, side, reason) (regime_reason{{{_MODEL}}})", table=True)],
            transformations=[
                {
                    "id": "organize",
                    "options": {
                        "excludeByName": {"Time": True, "Value": True},
                        "indexByName": {"model": 0, "symbol": 1, "timeframe": 2, "side": 3, "reason": 4},
                        "renameByName": {},
                    },
                }
            ],
        ),
        Panel(
            title="Pauses since the service started, by what began them",
            kind="bargauge",
            width=12,
            height=9,
            about="Counted when a side goes from trading to paused or halted.",
            low=0,
            colour="continuous-YlRd",
            queries=[Query(f"sum by (reason) (regime_pauses_total{{{_MODEL}}})", "{{reason}}")],
        ),
        Row("Who will be next"),
        Panel(
            title="Drift: share of the alarm limit",
            kind="bargauge",
            width=8,
            height=9,
            unit="percentunit",
            low=0,
            high=1,
            about="The ten streams whose input or scores are farthest from the training period. 100 % is an alarm.",
            queries=[Query(f"topk(10, max by ({KEYS}) ({drift_of(_MODEL)}))", _STREAM_LEGEND)],
            steps=(Step(None, "green"), Step(0.7, "yellow"), Step(1, "red")),
        ),
        Panel(
            title="Edge: win probability less break-even",
            kind="bargauge",
            width=8,
            height=9,
            unit="percentunit",
            about="The ten worst sides. Below 0 a side loses money after fees at the signals of late.",
            queries=[Query(f"bottomk(10, {with_trades('regime_edge_ratio', _MODEL)})", _SIDE_LEGEND)],
            low=-0.3,
            high=0.3,
            decimals=1,
            steps=(Step(None, "red"), Step(0, "yellow"), Step(0.05, "green")),
        ),
        Panel(
            title="Drawdown",
            kind="bargauge",
            width=8,
            height=9,
            unit="percentunit",
            low=0,
            high=0.3,
            decimals=1,
            about="Loss from the peak that counts for a side. The preset `default` pauses at 20 %.",
            queries=[Query(f"topk(10, regime_drawdown_ratio{{{_MODEL}}})", _SIDE_LEGEND)],
            steps=(Step(None, "green"), Step(0.1, "yellow"), Step(0.2, "red")),
        ),
        Row("Is it worth it"),
        Panel(
            title="What refusing saved so far",
            kind="timeseries",
            width=12,
            height=8,
            unit="percentunit",
            decimals=1,
            about="The refused signals as they came out on paper, summed up at full size, with the sign turned round: "
            "above 0 they would have lost. Of the last 500 trades of each side.",
            queries=[Query(f"sum by (model) (regime_guard_value_ratio{{{_MODEL}}})", "{{model}}")],
            custom=LIMIT,
            colour="palette-classic",
            steps=(Step(None, "red"), Step(0, "green")),
        ),
        Panel(
            title="Age of the input: share of the limit",
            kind="timeseries",
            width=12,
            height=8,
            unit="percentunit",
            low=0,
            about="At 100 % a stream is stale and paused. A saw-tooth between candles is as it should be.",
            queries=[
                Query(
                    f"max by ({KEYS}) (regime_input_age_seconds{{{_MODEL}}}"
                    f" / regime_input_age_limit_seconds{{{_MODEL}}})",
                    _STREAM_LEGEND,
                )
            ],
            custom=LIMIT,
            colour="palette-classic",
            steps=(Step(None, "green"), Step(1, "red")),
        ),
    ],
)


# --- one stream ------------------------------------------------------------------------------------------------------

_ONE = 'model="$model", symbol="$symbol", timeframe="$timeframe"'


def win_rate_panel(side: str) -> Panel:
    """Win rate of a side in its interval, beside break-even."""
    this = f'{_ONE}, side="{side}"'
    band = {"lineWidth": 0, "showPoints": "never"}
    return Panel(
        title=f"Win rate against break-even: {side}", kind="timeseries", width=12, height=8, unit="percentunit", low=0,
        high=1, about="Of the last 50 trades, real and paper ones, after fees; from ten trades on. The band is the "
              "90 % interval: while break-even lies inside, nothing is shown either way. The whole band below "
              "break-even: this side loses money.",
        queries=[
            Query(f"max({with_trades('regime_win_ratio_low', this)})", "low end"),
            Query(f"max({with_trades('regime_win_ratio_high', this)})", "high end"),
            Query(f"max({with_trades('regime_win_ratio', this)})", "win rate"),
            Query(f"max({with_trades('regime_break_even_ratio', this)})", "break-even"),
        ],
        custom=STEPS, colour="palette-classic",
        overrides=[
            Override(name="low end", custom={**band, "hideFrom": {"legend": True, "tooltip": False, "viz": False}},
                     field=_fixed("blue")),
            Override(name="high end", custom={**band, "fillBelowTo": "low end", "fillOpacity": 20,
                                              "hideFrom": {"legend": True, "tooltip": False, "viz": False}},
                     field=_fixed("blue")),
            Override(name="win rate", custom={"lineWidth": 2}, field=_fixed("blue")),
            Override(name="break-even", custom={"lineStyle": {"fill": "dash", "dash": [10, 10]}},
                     field=_fixed("red")),
        ],
    )  # fmt: skip


def _area(name: str, colour: Colour) -> Override:
    """A band of colour behind the price while it is 1."""
    return Override(
        name=name,
        custom={"axisPlacement": "hidden", "lineWidth": 0, "fillOpacity": 25, "lineInterpolation": "stepAfter"},
        field={**_fixed(colour), "min": 0, "max": 1, "unit": "none"},
    )


STREAM = Dashboard(
    name="stream",
    uid="regimegate-stream",
    title="regimegate: one stream",
    about="Everything behind the answer of one stream.",
    variables=[
        Variable("model", "Model", "regime_state"),
        Variable("symbol", "Symbol", 'regime_state{model="$model"}'),
        Variable("timeframe", "Timeframe", 'regime_state{model="$model", symbol="$symbol"}'),
    ],
    parts=[
        *(
            number(
                f"{side.capitalize()} side",
                "What the bot is told now.",
                "max by (side) (" + state_of(f'{_ONE}, side="{side}"') + ")",
                names=STATES,
            )
            for side in ("long", "short")
        ),
        number(
            "What refusing saved so far",
            "Refused signals as they came out on paper, summed up at full size, with the sign turned round.",
            f"sum(regime_guard_value_ratio{{{_ONE}}})",
            unit="percentunit",
            decimals=1,
            steps=(Step(None, "orange"), Step(0, "green")),
        ),
        number(
            "Drift",
            "Share of the alarm limit, of the detector that is closest to it.",
            f"max({drift_of(_ONE)})",
            unit="percentunit",
            decimals=0,
            steps=(Step(None, "green"), Step(0.7, "yellow"), Step(1, "red")),
        ),
        number(
            "Age of the input",
            "Since the close of the newest candle. Three candles without a new one are a pause.",
            f"max(regime_input_age_seconds{{{_ONE}}})",
            unit="s",
            decimals=0,
        ),
        number(
            "Drawdown",
            "The larger of the two sides.",
            f"max(regime_drawdown_ratio{{{_ONE}}})",
            unit="percentunit",
            decimals=1,
            steps=(Step(None, "green"), Step(0.1, "yellow"), Step(0.2, "red")),
        ),
        Panel(
            title="Price and pauses",
            kind="timeseries",
            width=24,
            height=10,
            unit="none",
            about="Close of the newest candle. Orange behind it: the long side is paused; purple: the short side.",
            queries=[
                Query(f"max(regime_close_price{{{_ONE}}})", "close"),
                Query(f'max(regime_state{{{_ONE}, side="long", state="ACTIVE"}} == bool 0)', "long does not trade"),
                Query(f'max(regime_state{{{_ONE}, side="short", state="ACTIVE"}} == bool 0)', "short does not trade"),
            ],
            custom=LINES,
            colour="palette-classic",
            overrides=[
                Override(name="close", field=_fixed("text")),
                _area("long does not trade", "orange"),
                _area("short does not trade", "purple"),
            ],
        ),
        Panel(
            title="State",
            kind="state-timeline",
            width=12,
            height=6,
            about="What each side was told.",
            queries=[Query(state_of(_ONE), "{{side}}")],
            names=STATES,
            custom={"fillOpacity": 80, "lineWidth": 0},
        ),
        Panel(
            title="Reasons",
            kind="status-history",
            width=12,
            height=6,
            nothing="no reason stands: all is well",
            about="Each reason while it stands. It may pause, make choosier or trade smaller.",
            queries=[Query(f"max by (side, reason) (regime_reason{{{_ONE}}})", "{{side}}: {{reason}}")],
            names={"1": ("stands", "orange")},
            custom={"fillOpacity": 80, "lineWidth": 0},
        ),
        Panel(
            title="Thresholds",
            kind="timeseries",
            width=12,
            height=8,
            about="The probability from which to enter, and from "
            "which to leave. While a side is paused its entry stands, and counts for nothing.",
            queries=[Query(f"regime_threshold{{{_ONE}}}", "{{side}} {{threshold}}")],
            custom=STEPS,
            colour="palette-classic",
            low=0.5,
            high=1,
            decimals=2,
        ),
        Panel(
            title="Size",
            kind="timeseries",
            width=12,
            height=8,
            about="Share of the usual position; 0 is a pause.",
            queries=[Query(f"regime_size_factor{{{_ONE}}}", "{{side}}")],
            custom={**STEPS, "fillOpacity": 10},
            colour="palette-classic",
            low=0,
            high=1,
            unit="percentunit",
        ),
        Row("Is the market another one"),
        Panel(
            title="Drift: share of the alarm limit",
            kind="timeseries",
            width=12,
            height=9,
            unit="percentunit",
            low=0,
            about="What each detector measures over its limit. `scores` are the model's own probabilities. 100 % is an "
            "alarm; where it stays below, no change is shown at the false-alarm rate you asked for.",
            queries=[Query(drift_of(_ONE), "{{detector}}")],
            custom=LIMIT,
            colour="palette-classic",
            steps=(Step(None, "green"), Step(1, "red")),
        ),
        Panel(
            title="Drift of features: share of the alarm limit",
            kind="status-history",
            width=12,
            height=9,
            unit="percentunit",
            low=0,
            high=1.2,
            colour="continuous-GrYlRd",
            about="The ten features that stood out most in the time shown. A gap: others stood out more just "
            "then. What "
            "changed, and since when, is in /v1/explain.",
            queries=[
                Query(
                    f"max by (feature) (clamp_min(regime_feature_drift_ratio{{{_ONE}}}, 0)) and on (feature) "
                    f"topk(10, max by (feature) (max_over_time(regime_feature_drift_ratio{{{_ONE}}}[$__range] @ "
                    f"end())))",
                    "{{feature}}",
                )
            ],
            custom={"fillOpacity": 90, "lineWidth": 0},
        ),
        Panel(
            title="Alarms a day: asked for and measured",
            kind="timeseries",
            width=24,
            height=6,
            decimals=3,
            about="The false-alarm budget beside what came, true alarms included. Over few days the measured rate says "
            "little: one alarm in three days is 0.33 a day, and no proof of anything.",
            queries=[
                Query(f"regime_false_alarm_budget{{{_ONE}}}", "{{detector}}: asked for"),
                Query(f"regime_alarm_rate{{{_ONE}}}", "{{detector}}: measured"),
            ],
            custom=STEPS,
            colour="palette-classic",
            low=0,
            overrides=[
                Override(name=".*asked for", regex=True, custom={"lineStyle": {"fill": "dash", "dash": [10, 10]}})
            ],
        ),
        Row("Does it still earn its fees"),
        win_rate_panel("long"),
        win_rate_panel("short"),
        Panel(
            title="Edge: win probability less break-even",
            kind="timeseries",
            width=8,
            height=8,
            unit="percentunit",
            about="Calibrated on the outcomes, at the scores of late. Below 0 a side loses money after fees.",
            queries=[Query(with_trades("regime_edge_ratio", _ONE), "{{side}}")],
            decimals=1,
            custom=LIMIT,
            colour="palette-classic",
            steps=(Step(None, "red"), Step(0, "green")),
        ),
        Panel(
            title="What refusing saved so far",
            kind="timeseries",
            width=8,
            height=8,
            unit="percentunit",
            decimals=1,
            about="Refused signals as they came out on paper, summed up at full size, with the sign turned "
            "round: above 0 "
            "they would have lost. Of the last 500 trades of a side. A few of them are luck.",
            queries=[Query(f"regime_guard_value_ratio{{{_ONE}}}", "{{side}}")],
            custom=LIMIT,
            colour="palette-classic",
            steps=(Step(None, "red"), Step(0, "green")),
        ),
        Panel(
            title="Drawdown",
            kind="timeseries",
            width=8,
            height=8,
            unit="percentunit",
            low=0,
            decimals=1,
            about="Loss from the peak that counts for a side.",
            queries=[Query(f"regime_drawdown_ratio{{{_ONE}}}", "{{side}}")],
            custom=LINES,
            colour="palette-classic",
        ),
    ],
)


# --- the service -----------------------------------------------------------------------------------------------------

_JOB = 'job=~"$job"'


def quantiles(title: str, about: str, metric: str, *, by: str = "", width: int = 8) -> Panel:
    """Median and 99th percentile of a duration, with exemplars."""
    label = f"{{{{{by}}}}} " if by else ""
    rate = f"sum by ({', '.join(filter(None, ('le', by)))}) (rate({metric}_bucket{{{_JOB}}}[$__rate_interval]))"
    return Panel(
        title=title, about=about, kind="timeseries", width=width, height=8, unit="s", low=0, colour="palette-classic",
        queries=[
            Query(f"histogram_quantile(0.5, {rate})", f"{label}median", exemplar=True),
            Query(f"histogram_quantile(0.99, {rate})", f"{label}99 of 100", exemplar=True),
        ],
        custom={**LINES, "spanNulls": True},
    )  # fmt: skip


SERVICE = Dashboard(
    name="service",
    uid="regimegate-service",
    title="regimegate: the service",
    about="Whether the service itself is well: requests, disk, queue, memory.",
    variables=[Variable("job", "Job", "regime_ready", every=True)],
    since="now-3h",
    parts=[
        number(
            "Ready",
            "Whether it can answer and store. If not, every bot holds its answer until the lease is over, then pauses.",
            f"min(regime_ready{{{_JOB}}})",
            names={"1": ("ready", "green"), "0": ("NOT READY", "red")},
        ),
        number(
            "Up for",
            "Since the process started; counters began at 0 then.",
            f"time() - max(process_start_time_seconds{{{_JOB}}})",
            unit="s",
            decimals=0,
        ),
        number("Streams", "Each is model, symbol and timeframe.", f"sum(regime_streams{{{_JOB}}})"),
        number(
            "Dead letters",
            "Streams that are paused because an event made judging fail. `regime dead-letter list`.",
            f"sum(regime_dead_letters{{{_JOB}}})",
            steps=BAD_FROM_1,
        ),
        number(
            "Alerts waiting",
            "In the outbox, not yet delivered.",
            f"sum(regime_outbox_unsent{{{_JOB}}})",
            steps=(Step(None, "green"), Step(1, "yellow"), Step(10, "red")),
        ),
        number(
            "Room on the disk",
            "When it is full the service stops, and every bot pauses.",
            f"min(regime_store_free_bytes{{{_JOB}}})",
            unit="bytes",
            decimals=1,
            steps=(Step(None, "red"), Step(1e9, "orange"), Step(5e9, "green")),
        ),
        Row("Requests"),
        Panel(
            title="Requests a second, by call",
            kind="timeseries",
            width=12,
            about="What bots, pages and Prometheus ask.",
            queries=[
                Query(f"sum by (route) (rate(regime_http_requests_total{{{_JOB}}}[$__rate_interval]))", "{{route}}")
            ],
            custom={**LINES, "fillOpacity": 10, "stacking": {"mode": "normal", "group": "A"}},
            unit="reqps",
            colour="palette-classic",
            low=0,
        ),
        Panel(
            title="Requests that were not answered with 2xx or 304",
            kind="timeseries",
            width=12,
            unit="reqps",
            low=0,
            about="4xx: the bot sends something wrong; its own log has the sentence. 5xx is always 503: the "
            "service is full, "
            "starting, or cannot store.",
            queries=[
                Query(
                    "sum by (status) (rate(regime_http_requests_total{"
                    + _JOB
                    + ', status!~"2..|304"}[$__rate_interval])) '
                    "or vector(0)",
                    "{{status}}",
                )
            ],
            custom={**LINES, "fillOpacity": 10},
            colour="palette-classic",
        ),
        quantiles(
            "How long a request takes",
            "From its header to its answer; for a POST the disk is in it.",
            "regime_http_request_duration_seconds",
            by="route",
            width=24,
        ),
        Row("Events"),
        Panel(
            title="Events a second",
            kind="timeseries",
            width=12,
            about="What came in, and what became of it.",
            low=0,
            queries=[
                Query(
                    f"sum by (kind, result) (rate(regime_events_total{{{_JOB}}}[$__rate_interval]))",
                    "{{kind}} {{result}}",
                )
            ],
            custom=LINES,
            colour="palette-classic",
            unit="cps",
        ),
        Panel(
            title="Faults in the data",
            kind="timeseries",
            width=12,
            low=0,
            unit="cps",
            about="Features without a value where one is expected, and observations with columns missing or "
            "unknown: both "
            "pause the stream at once.",
            queries=[
                Query(
                    f"sum(rate(regime_non_finite_values_total{{{_JOB}}}[$__rate_interval])) or vector(0)",
                    "values missing",
                ),
                Query(
                    f"sum(rate(regime_schema_mismatches_total{{{_JOB}}}[$__rate_interval])) or vector(0)",
                    "columns changed",
                ),
            ],
            custom=LINES,
            colour="palette-classic",
        ),
        quantiles("Judging one event", "The engines alone.", "regime_decision_duration_seconds"),
        quantiles(
            "Until it is on disk and judged", "From the queue to the answer.", "regime_acknowledgement_duration_seconds"
        ),
        quantiles(
            "The disk: one commit",
            "One fsync. If this grows everything waits for the disk.",
            "regime_commit_duration_seconds",
        ),
        Row("What it lives on"),
        Panel(
            title="Queue",
            kind="timeseries",
            width=6,
            about="Requests that wait to be written; at the limit bots get 503.",
            queries=[
                Query(f"max(regime_queue_depth{{{_JOB}}})", "waiting"),
                Query(f"max(regime_queue_max{{{_JOB}}})", "limit"),
            ],
            custom=LINES,
            colour="palette-classic",
            low=0,
        ),
        Panel(
            title="Store and disk",
            kind="timeseries",
            width=6,
            unit="bytes",
            low=0,
            colour="palette-classic",
            about="Nothing is ever deleted: a replay needs the log.",
            custom=LINES,
            queries=[
                Query(f"max(regime_store_bytes{{{_JOB}}})", "store"),
                Query(f"min(regime_store_free_bytes{{{_JOB}}})", "free"),
            ],
        ),
        Panel(
            title="Memory and processor",
            kind="timeseries",
            width=6,
            unit="bytes",
            low=0,
            colour="palette-classic",
            about="Resident memory, and cores in use.",
            custom=LINES,
            queries=[
                Query(f"max(process_resident_memory_bytes{{{_JOB}}})", "memory"),
                Query(f"max(rate(process_cpu_seconds_total{{{_JOB}}}[$__rate_interval]))", "cores"),
            ],
            overrides=[
                Override(name="cores", custom={"axisPlacement": "right"}, field={"unit": "none", "decimals": 2})
            ],
        ),
        Panel(
            title="Series of a scrape",
            kind="timeseries",
            width=6,
            low=0,
            colour="palette-classic",
            about="At the limit single features go first, states last. What was left out a second is `left out`; raise "
            "`metrics_series_max` if you want it.",
            custom=LINES,
            queries=[
                Query(f"max(scrape_samples_scraped{{{_JOB}}} and on (instance, job) regime_ready)", "shown"),
                Query(f"max(regime_series_max{{{_JOB}}})", "limit"),
                Query(
                    f"sum by (group) (rate(regime_series_dropped_total{{{_JOB}}}[$__rate_interval])) > 0 or vector(0)",
                    "left out: {{group}}",
                ),
            ],
        ),
    ],
)

DASHBOARDS = (FLEET, STREAM, SERVICE)


def text_of(dashboard: Dashboard) -> str:
    """Return the file of a dashboard."""
    return json.dumps(dashboard.json(), indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file is not up to date")
    asked = parser.parse_args()
    stale = []
    for dashboard in DASHBOARDS:
        file = FOLDER / f"{dashboard.name}.json"
        if not file.exists() or file.read_text("utf-8") != text_of(dashboard):
            stale.append(file.name)
            if not asked.check:
                file.write_text(text_of(dashboard), "utf-8")
    if asked.check and stale:
        print(f"{', '.join(stale)}: not what grafana/build.py says; run `python grafana/build.py`", file=sys.stderr)
    return int(asked.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
