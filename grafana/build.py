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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from panels import Colour, Dashboard, Json, Link, Override, Panel, Query, Row, Step, Variable

FOLDER = Path(__file__).parent / "dashboards"

# --- what several dashboards say -------------------------------------------------------------------------------------

LINES: Json = {"lineWidth": 1, "fillOpacity": 0, "showPoints": "never", "spanNulls": False}
STEPS: Json = {**LINES, "lineInterpolation": "stepAfter"}
LIMIT: Json = {**LINES, "thresholdsStyle": {"mode": "dashed"}}
FILLED: Json = {**LINES, "fillOpacity": 10}
BLOCKS: Json = {"fillOpacity": 80, "lineWidth": 0}
DASHED: Json = {"lineStyle": {"fill": "dash", "dash": [10, 10]}}
STATES: dict[str, tuple[str, Colour]] = {
    "0": ("trades", "green"), "1": ("paused", "orange"), "2": ("HALTED", "red"),
}  # fmt: skip
KEYS = "model, symbol, timeframe"
TRADES_MIN = 10
"""With fewer trades a win rate is not shown: it jumps between 0 and 100 %, and somebody believes it."""

WELL_AT_0 = (Step(None, "green"), Step(1, "orange"))
BAD_FROM_1 = (Step(None, "green"), Step(1, "red"))
TO_ALARM = (Step(None, "green"), Step(0.7, "yellow"), Step(1, "red"))
LOSS_BELOW_0 = (Step(None, "red"), Step(0, "green"))
DRAWDOWN = (Step(None, "green"), Step(0.1, "yellow"), Step(0.2, "red"))


def stream_link(label: str) -> Link:
    """Leads to the dashboard of the stream that is clicked at; `label` says where Grafana finds a label of it."""
    chosen = "&".join(f"var-{name}=${{{label}.{name}:percentencode}}" for name in ("model", "symbol", "timeframe"))
    rest = "var-datasource=${datasource}&${__url_time_range}"
    return Link("This stream in depth", f"/d/regimegate-stream?{chosen}&{rest}")


OF_SERIES, OF_ROW = (stream_link("__field.labels"),), (stream_link("__data.fields"),)


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


def lines(title: str, about: str, *queries: Query, width: int = 12, custom: Json = LINES, **more: Any) -> Panel:
    """Series over time, each in a colour of its own."""
    return Panel(
        title=title, about=about, kind="timeseries", queries=queries, width=width, custom=custom,
        colour="palette-classic", **more,
    )  # fmt: skip


def bars(title: str, about: str, query: Query, *, width: int = 8, **more: Any) -> Panel:
    """The newest value of each series, side by side."""
    return Panel(title=title, about=about, kind="bargauge", queries=[query], width=width, height=9, **more)


def states(title: str, about: str, query: Query, *, width: int, height: int, links: Sequence[Link] = ()) -> Panel:
    """What sides were told, as bands of colour."""
    return Panel(
        title=title, about=about, kind="state-timeline", queries=[query], width=width, height=height, names=STATES,
        custom=BLOCKS, links=links,
    )  # fmt: skip


def saved(query: Query, about: str, *, width: int) -> Panel:
    """What pauses were worth, as they are looked at: above 0 they saved money."""
    return lines(
        "What refusing saved so far", about, query, width=width, unit="percentunit", decimals=1, custom=LIMIT,
        steps=LOSS_BELOW_0,
    )  # fmt: skip


# --- all streams -----------------------------------------------------------------------------------------------------

_MODEL = 'model=~"$model"'
_STREAM_LEGEND = "{{model}} {{symbol}} {{timeframe}}"
_SIDE_LEGEND = f"{_STREAM_LEGEND} {{{{side}}}}"

FLEET = Dashboard(
    name="fleet",
    uid="regimegate-fleet",
    title="regimegate: all streams",
    about="Who trades, who is paused and why, and who will be next. A click at a stream leads to it.",
    variables=[Variable("model", "Model", "regime_state", every=True)],
    parts=[
        number(
            "Sides that trade",
            "A stream has two sides, long and short; each is judged on its own.",
            f'sum(regime_state{{{_MODEL}, state="ACTIVE"}})',
            width=3,
            steps=(Step(None, "text"), Step(1, "green")),
        ),
        number(
            "Trading smaller",
            "They trade, but at a part of the usual size: probation after a pause, or a doubt.",
            count_or_none(f"regime_size_factor{{{_MODEL}}} > 0 < 1"),
            width=3,
            steps=WELL_AT_0,
        ),
        number(
            "Paused",
            "REDUCING: no new entries, exits are free. The table below says why.",
            f'sum(regime_state{{{_MODEL}, state="REDUCING"}})',
            width=3,
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
            "Stopped by an error",
            "Sides that are paused because an event made judging fail: a dead letter. They stay so until somebody says "
            "what to do with it: `regime dead-letter list`.",
            count_or_none(f'regime_reason{{{_MODEL}, reason="engine-error"}} == 1'),
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
        states(
            "State of every side",
            "Green trades, orange is paused (no new entries, exits are free), red an operator halted.",
            Query(state_of(_MODEL), _SIDE_LEGEND),
            width=24,
            height=9,
            links=OF_SERIES,
        ),
        Panel(
            title="Why: every reason that stands now",
            kind="table",
            width=12,
            height=9,
            about="A reason may pause, make choosier or trade smaller. `regime_reason`; the sentence is in the page of "
            "the service and in /v1/explain. What each means and what to do: docs/runbook.md.",
            queries=[Query(f"max by ({KEYS}, side, reason) (regime_reason{{{_MODEL}}})", table=True)],
            links=OF_ROW,
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
        bars(
            "Pauses since the service started, by what began them",
            "Counted when a side goes from trading to paused or halted.",
            Query(f"sum by (reason) (regime_pauses_total{{{_MODEL}}})", "{{reason}}"),
            width=12,
            low=0,
            colour="continuous-YlRd",
        ),
        Row("Who will be next"),
        bars(
            "Drift: share of the alarm limit",
            "The ten streams whose input or scores are farthest from the training period. 100 % is an alarm.",
            Query(f"topk(10, max by ({KEYS}) ({drift_of(_MODEL)}))", _STREAM_LEGEND),
            unit="percentunit",
            low=0,
            high=1,
            steps=TO_ALARM,
            links=OF_SERIES,
        ),
        bars(
            "Edge: win probability less break-even",
            "The ten worst sides. Below 0 a side loses money after fees at the signals of late.",
            Query(f"bottomk(10, {with_trades('regime_edge_ratio', _MODEL)})", _SIDE_LEGEND),
            unit="percentunit",
            low=-0.3,
            high=0.3,
            decimals=1,
            steps=(Step(None, "red"), Step(0, "yellow"), Step(0.05, "green")),
            links=OF_SERIES,
        ),
        bars(
            "Drawdown",
            "Loss from the peak that counts for a side. The preset `default` pauses at 20 %.",
            Query(f"topk(10, regime_drawdown_ratio{{{_MODEL}}})", _SIDE_LEGEND),
            unit="percentunit",
            low=0,
            high=0.3,
            decimals=1,
            steps=DRAWDOWN,
            links=OF_SERIES,
        ),
        Row("Is it worth it"),
        saved(
            Query(f"sum by (model) (regime_guard_value_ratio{{{_MODEL}}})", "{{model}}"),
            "The refused signals as they came out on paper, summed up at full size, with the sign turned round: "
            "above 0 they would have lost. Of the last 500 trades of each side.",
            width=12,
        ),
        lines(
            "Age of the input: share of the limit",
            "At 100 % a stream is stale and paused. A saw-tooth between candles is as it should be.",
            Query(
                f"max by ({KEYS}) (regime_input_age_seconds{{{_MODEL}}} / regime_input_age_limit_seconds{{{_MODEL}}})",
                _STREAM_LEGEND,
            ),
            unit="percentunit",
            low=0,
            custom=LIMIT,
            steps=BAD_FROM_1,
            links=OF_SERIES,
        ),
    ],
)


# --- one stream ------------------------------------------------------------------------------------------------------

_ONE = 'model="$model", symbol="$symbol", timeframe="$timeframe"'


def win_rate_panel(side: str) -> Panel:
    """Win rate of a side in its interval, beside break-even."""
    this = f'{_ONE}, side="{side}"'
    band = {
        "lineWidth": 0, "showPoints": "never", "hideFrom": {"legend": True, "tooltip": False, "viz": False},
    }  # fmt: skip
    return lines(
        f"Win rate against break-even: {side}",
        "Of the last 50 trades, real and paper ones, after fees; from ten trades on. The band is the 90 % interval: "
        "while break-even lies inside, nothing is shown either way. The whole band below break-even: this side loses "
        "money.",
        *(
            Query(f"max({with_trades(f'regime_{metric}', this)})", name)
            for metric, name in (
                ("win_ratio_low", "low end"), ("win_ratio_high", "high end"), ("win_ratio", "win rate"),
                ("break_even_ratio", "break-even"),
            )
        ),
        unit="percentunit", low=0, high=1, custom=STEPS,
        overrides=[
            Override(name="low end", custom=band, field=_fixed("blue")),
            Override(name="high end", custom={**band, "fillBelowTo": "low end", "fillOpacity": 20},
                     field=_fixed("blue")),
            Override(name="win rate", custom={"lineWidth": 2}, field=_fixed("blue")),
            Override(name="break-even", custom=DASHED, field=_fixed("red")),
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
            steps=TO_ALARM,
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
            steps=DRAWDOWN,
        ),
        lines(
            "Price and pauses",
            "Close of the newest candle. Orange behind it: the long side is paused; purple: the short side.",
            Query(f"max(regime_close_price{{{_ONE}}})", "close"),
            *(
                Query(f'max(regime_state{{{_ONE}, side="{side}", state="ACTIVE"}} == bool 0)', f"{side} does not trade")
                for side in ("long", "short")
            ),
            width=24,
            height=10,
            overrides=[
                Override(name="close", field=_fixed("text")),
                _area("long does not trade", "orange"),
                _area("short does not trade", "purple"),
            ],
        ),
        states("State", "What each side was told.", Query(state_of(_ONE), "{{side}}"), width=12, height=6),
        Panel(
            title="Reasons",
            kind="status-history",
            width=12,
            height=6,
            nothing="no reason stands: all is well",
            about="Each reason while it stands. It may pause, make choosier or trade smaller.",
            queries=[Query(f"max by (side, reason) (regime_reason{{{_ONE}}})", "{{side}}: {{reason}}")],
            names={"1": ("stands", "orange")},
            custom=BLOCKS,
        ),
        lines(
            "Thresholds",
            "The probability from which to enter, and from which to leave. While a side is paused its entry stands, "
            "and counts for nothing.",
            Query(f"regime_threshold{{{_ONE}}}", "{{side}} {{threshold}}"),
            custom=STEPS,
            low=0.5,
            high=1,
            decimals=2,
        ),
        lines(
            "Size",
            "Share of the usual position; 0 is a pause.",
            Query(f"regime_size_factor{{{_ONE}}}", "{{side}}"),
            custom={**STEPS, "fillOpacity": 10},
            low=0,
            high=1,
            unit="percentunit",
        ),
        Row("Is the market another one"),
        lines(
            "Drift: share of the alarm limit",
            "What each detector measures over its limit. `scores` are the model's own probabilities. 100 % is an "
            "alarm; where it stays below, no change is shown at the false-alarm rate you asked for.",
            Query(drift_of(_ONE), "{{detector}}"),
            height=9,
            unit="percentunit",
            low=0,
            custom=LIMIT,
            steps=BAD_FROM_1,
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
            about="The ten features that stood out most in the time shown. A gap: others stood out more just then. "
            "What changed, and since when, is in /v1/explain.",
            queries=[
                Query(
                    f"max by (feature) (clamp_min(regime_feature_drift_ratio{{{_ONE}}}, 0)) and on (feature) "
                    f"topk(10, max by (feature) (max_over_time(regime_feature_drift_ratio{{{_ONE}}}[$__range] @ "
                    f"end())))",
                    "{{feature}}",
                )
            ],
            custom={**BLOCKS, "fillOpacity": 90},
        ),
        lines(
            "Alarms a day: asked for and measured",
            "The false-alarm budget beside what came, true alarms included. Over few days the measured rate says "
            "little: one alarm in three days is 0.33 a day, and no proof of anything.",
            Query(f"regime_false_alarm_budget{{{_ONE}}}", "{{detector}}: asked for"),
            Query(f"regime_alarm_rate{{{_ONE}}}", "{{detector}}: measured"),
            width=24,
            height=6,
            decimals=3,
            custom=STEPS,
            low=0,
            overrides=[Override(name=".*asked for", regex=True, custom=DASHED)],
        ),
        Row("Does it still earn its fees"),
        win_rate_panel("long"),
        win_rate_panel("short"),
        lines(
            "Edge: win probability less break-even",
            "Calibrated on the outcomes, at the scores of late. Below 0 a side loses money after fees.",
            Query(with_trades("regime_edge_ratio", _ONE), "{{side}}"),
            width=8,
            unit="percentunit",
            decimals=1,
            custom=LIMIT,
            steps=LOSS_BELOW_0,
        ),
        saved(
            Query(f"regime_guard_value_ratio{{{_ONE}}}", "{{side}}"),
            "Refused signals as they came out on paper, summed up at full size, with the sign turned round: above 0 "
            "they would have lost. Of the last 500 trades of a side. A few of them are luck.",
            width=8,
        ),
        lines(
            "Drawdown",
            "Loss from the peak that counts for a side.",
            Query(f"regime_drawdown_ratio{{{_ONE}}}", "{{side}}"),
            width=8,
            unit="percentunit",
            low=0,
            decimals=1,
        ),
    ],
)


# --- the service -----------------------------------------------------------------------------------------------------

_JOB = 'job=~"$job"'


def a_second(metric: str, by: str = "", where: str = "") -> str:
    """How often a counter counts, in a second."""
    return f"sum{_by(by)}(rate({metric}{{{_JOB}{where}}}[$__rate_interval]))"


def newest(metric: str, by: str = "") -> str:
    """The newest value of a figure, the worst of all services that are chosen; `by` keeps a label."""
    return f"max{_by(by)}({metric}{{{_JOB}}})"


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""


def quantiles(title: str, about: str, metric: str, *, by: str = "", width: int = 8) -> Panel:
    """Median and 99th percentile of a duration, with exemplars."""
    label = f"{{{{{by}}}}} " if by else ""
    rate = a_second(f"{metric}_bucket", ", ".join(filter(None, ("le", by))))
    return lines(
        title, about,
        Query(f"histogram_quantile(0.5, {rate})", f"{label}median", exemplar=True),
        Query(f"histogram_quantile(0.99, {rate})", f"{label}99 of 100", exemplar=True),
        width=width, unit="s", low=0, custom={**LINES, "spanNulls": True},
    )  # fmt: skip


_NO_CHANNEL = "no alert channel is configured"

SERVICE = Dashboard(
    name="service",
    uid="regimegate-service",
    title="regimegate: the service",
    about="Whether the service itself is well: requests, readers, alerts, disk, queue, memory.",
    variables=[Variable("job", "Job", "regime_ready", every=True)],
    since="now-3h",
    parts=[
        number(
            "Ready",
            "Whether it can answer and store. If not, every bot holds its answer until the lease is over, then pauses.",
            f"min(regime_ready{{{_JOB}}})",
            width=3,
            names={"1": ("ready", "green"), "0": ("NOT READY", "red")},
        ),
        number(
            "Up for",
            "Since the process started; counters began at 0 then.",
            f"time() - max(process_start_time_seconds{{{_JOB}}})",
            width=3,
            unit="s",
            decimals=0,
        ),
        number("Streams", "Each is model, symbol and timeframe.", f"sum(regime_streams{{{_JOB}}})", width=3),
        number(
            "Room on the disk",
            "When it is full the service stops, and every bot pauses.",
            f"min(regime_store_free_bytes{{{_JOB}}})",
            width=3,
            unit="bytes",
            decimals=1,
            steps=(Step(None, "red"), Step(1e9, "orange"), Step(5e9, "green")),
        ),
        number(
            "Dead letters",
            "Streams that are paused because an event made judging fail. `regime dead-letter list`.",
            f"sum(regime_dead_letters{{{_JOB}}})",
            width=3,
            steps=BAD_FROM_1,
        ),
        number(
            "Alerts waiting",
            "Not delivered yet. Each is tried again within a minute; pauses do not wait for their messages.",
            f"sum(regime_outbox_unsent{{{_JOB}}})",
            width=3,
            steps=(Step(None, "green"), Step(1, "yellow"), Step(10, "red")),
        ),
        number(
            "Oldest alert waiting",
            "Since it was written down; 0 where none waits. A few seconds are as it should be, minutes are a channel "
            "that does not answer. What quiet hours hold back does not count.",
            f"max(regime_alert_oldest_waiting_seconds{{{_JOB}}})",
            width=3,
            unit="s",
            decimals=0,
            steps=(Step(None, "green"), Step(60, "yellow"), Step(600, "red")),
            nothing=_NO_CHANNEL,
        ),
        number(
            "Alerts given up",
            "Nobody was told of these, and nobody will be by itself: the receiver refuses them, or was silent for too "
            "long. `regime alerts list` says why, `regime alerts retry --all` sends them again.",
            f"sum(regime_alerts_dead{{{_JOB}}})",
            width=3,
            steps=BAD_FROM_1,
            nothing=_NO_CHANNEL,
        ),
        Row("Requests"),
        lines(
            "Requests a second, by call",
            "What bots, pages and Prometheus ask.",
            Query(a_second("regime_http_requests_total", "route"), "{{route}}"),
            width=8,
            custom={**FILLED, "stacking": {"mode": "normal", "group": "A"}},
            unit="reqps",
            low=0,
        ),
        lines(
            "Requests that were not answered with 2xx or 304",
            "4xx: the bot sends something wrong; its own log has the sentence. 5xx is always 503: the service is full, "
            "starting, or cannot store.",
            Query(a_second("regime_http_requests_total", "status", ', status!~"2..|304"'), "{{status}}"),
            width=8,
            nothing="every request was answered so",
            unit="reqps",
            low=0,
            custom=FILLED,
        ),
        lines(
            "Refused, by why",
            "`malformed`, `invalid`, `unknown`, `conflict`: a bot sends something wrong, or asks for a stream that is "
            "not there. `key`, `scope`: no right key, or one that may not do this. `host`, `origin`: asked by a name "
            "that is not in `hosts`, or by a page of another site. `rate`, `streams`: one key asks too much. "
            "`not-ready`, `unavailable`: the service cannot answer or store. `connection-...`: a line too slow, or one "
            "too many.",
            Query(a_second("regime_http_refusals_total", "kind"), "{{kind}}"),
            width=8,
            nothing="nothing was refused",
            unit="reqps",
            low=0,
            custom=FILLED,
        ),
        quantiles(
            "How long a request takes",
            "From its header to its answer; for a POST the disk is in it.",
            "regime_http_request_duration_seconds",
            by="route",
            width=24,
        ),
        Row("Bots that are told rather than ask"),
        lines(
            "Event streams open",
            "Bots and pages that read /v1/stream now. A reader that has lost the line holds its answers until the "
            "lease is over, and comes back by itself.",
            Query(newest("regime_push_streams"), "open"),
            custom=STEPS,
            low=0,
            decimals=0,
        ),
        lines(
            "Answers pushed a second",
            "`overtaken`: a newer answer came before the reader took this one, and it got the newer one only. That is "
            "harmless, but many of them are a reader that is slow.",
            Query(a_second("regime_pushed_answers_total"), "pushed"),
            Query(a_second("regime_push_superseded_total"), "overtaken"),
            unit="cps",
            low=0,
        ),
        Row("Alerts to people"),
        lines(
            "Alerts in the last hour, by what became of them",
            "`delivered`: the channel took it. `failed`: a try that is repeated; ten for one alert are a channel that "
            "does not answer. `dead`: given up, nobody was told.",
            Query(
                f"sum by (channel, result) (increase(regime_alert_deliveries_total{{{_JOB}}}[1h]))",
                "{{channel}} {{result}}",
            ),
            width=8,
            low=0,
            decimals=0,
            nothing=_NO_CHANNEL,
        ),
        lines(
            "Alerts not delivered, by channel",
            "`waiting` ones are tried again; `given up` ones wait for you: `regime alerts list`.",
            Query(newest("regime_alerts_waiting", "channel"), "{{channel}}: waiting"),
            Query(newest("regime_alerts_dead", "channel"), "{{channel}}: given up"),
            width=8,
            low=0,
            decimals=0,
            custom=STEPS,
            nothing=_NO_CHANNEL,
        ),
        lines(
            "How long the oldest has waited, by channel",
            "A line that climbs is a channel that takes nothing; after `give_up_after_hours` (24) it is given up.",
            Query(newest("regime_alert_oldest_waiting_seconds", "channel"), "{{channel}}"),
            width=8,
            unit="s",
            low=0,
            custom=LIMIT,
            steps=(Step(None, "green"), Step(600, "red")),
            nothing=_NO_CHANNEL,
        ),
        Row("Events"),
        lines(
            "Events a second",
            "What came in, and what became of it.",
            Query(a_second("regime_events_total", "kind, result"), "{{kind}} {{result}}"),
            width=8,
            low=0,
            unit="cps",
        ),
        lines(
            "Faults in the data",
            "Features without a value where one is expected, and observations with columns missing or unknown: both "
            "pause the stream at once.",
            Query(f"{a_second('regime_non_finite_values_total')} or vector(0)", "values missing"),
            Query(f"{a_second('regime_schema_mismatches_total')} or vector(0)", "columns changed"),
            width=8,
            low=0,
            unit="cps",
        ),
        lines(
            "Streams stopped by a dead letter",
            "An event made judging fail: a fault of ours, or of a detector or rule of your own. The stream stays "
            "paused until the letter is retried or dropped, or a new reference comes: `regime dead-letter list`.",
            Query(newest("regime_dead_letters"), "open"),
            width=8,
            low=0,
            decimals=0,
            custom=STEPS,
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
        lines(
            "Queue",
            "Requests that wait to be written; at the limit bots get 503.",
            Query(newest("regime_queue_depth"), "waiting"),
            Query(newest("regime_queue_max"), "limit"),
            width=6,
            low=0,
        ),
        lines(
            "Store and disk",
            "Nothing is ever deleted: a replay needs the log.",
            Query(newest("regime_store_bytes"), "store"),
            Query(f"min(regime_store_free_bytes{{{_JOB}}})", "free"),
            width=6,
            unit="bytes",
            low=0,
        ),
        lines(
            "Memory and processor",
            "Resident memory, and cores in use.",
            Query(newest("process_resident_memory_bytes"), "memory"),
            Query(f"max(rate(process_cpu_seconds_total{{{_JOB}}}[$__rate_interval]))", "cores"),
            width=6,
            unit="bytes",
            low=0,
            overrides=[
                Override(name="cores", custom={"axisPlacement": "right"}, field={"unit": "none", "decimals": 2})
            ],
        ),
        lines(
            "Series of a scrape",
            "At the limit single features go first, states last. What was left out a second is `left out`; raise "
            "`metrics_series_max` if you want it.",
            Query(f"max(scrape_samples_scraped{{{_JOB}}} and on (instance, job) regime_ready)", "shown"),
            Query(newest("regime_series_max"), "limit"),
            Query(f"{a_second('regime_series_dropped_total', 'group')} > 0 or vector(0)", "left out: {{group}}"),
            width=6,
            low=0,
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
