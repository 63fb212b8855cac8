"""`regime`, the command line.

Exit codes: 0 done, 1 the answer is no, 2 wrong usage or input (one sentence on standard error says what).
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from regime.errors import CallerError, CorruptionError, OperatorError, RegimeError
from regime_service import settings as settings_file
from regime_service.keys import RedactingFormatter

if TYPE_CHECKING:
    from regime_service.archive.history import ArchiveOptions
    from regime_service.report import ReplayOptions

EXIT_DONE, EXIT_NO, EXIT_USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        code: int = arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    except (RegimeError, CallerError) as error:
        print(f"regime {arguments.command}: {error}", file=sys.stderr)
        return EXIT_USAGE
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="regime", description="Tells a trading bot when the market it was trained on is gone."
    )
    parser.add_argument("--version", action="version", version=f"regimegate {version('regimegate')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the service until SIGTERM")
    _common(serve)
    serve.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port (default 8080; 0 takes a free one)")
    serve.add_argument(
        "--store", metavar="FILE|URL",
        help="where events are kept: a file (default regimegate.db), or postgresql://...; made if absent",
    )  # fmt: skip
    serve.add_argument("--keys", metavar="FILE", help="keys that open the service (default: beside the store)")
    serve.add_argument("--clock", choices=("wall", "event"), help="whose time decides that a stream is stale")
    serve.add_argument("--mode", choices=("enforce", "shadow"), help="shadow: compute everything, change nothing")
    serve.set_defaults(run=_serve)

    replay = commands.add_parser("replay", help="play a bot's own logs through the engine and write a report")
    _common(replay)
    _files(replay)
    replay.add_argument(
        "--archive", metavar="DIR", help="instead of files: the archive of a service, held event by event against "
        "what it decided then (exit code 1: it comes out otherwise)",
    )  # fmt: skip
    replay.add_argument("--out", metavar="DIR", help="folder for report.html, report.json, decisions.jsonl")
    replay.add_argument(
        "--what-if", choices=("paper", "unseen"),
        help="play a backtest as if the guard had run: trades it refuses become paper trades, or are never heard of "
        "(default: every trade is fed as it stands)",
    )  # fmt: skip
    replay.add_argument("--json", action="store_true", help="print the report as JSON")
    replay.set_defaults(run=_replay)

    sweep = commands.add_parser(
        "sweep", help="play a backtest under every combination of settings, and say how much of the best is luck"
    )
    _common(sweep)
    _files(sweep)
    sweep.add_argument(
        "--archive", metavar="DIR", help="instead of files: the archive of a service (with several streams in it, "
        "--model, --symbol and --timeframe say which)",
    )  # fmt: skip
    sweep.add_argument(
        "--grid", metavar="KEY=V1,V2", nargs="+", required=True,
        help="settings to try: preset=default,conservative false_pause_trades=300,1000 drawdown.limit=0.1,0.2",
    )  # fmt: skip
    sweep.add_argument("--out", metavar="DIR", required=True, help="folder for sweep.html and sweep.json")
    sweep.add_argument("--folds", type=int, default=5, help="parts of the time to walk through (default 5)")
    sweep.add_argument("--held-out", type=float, default=0.2, help="share of the trades no choice sees (default 0.2)")
    sweep.add_argument("--jobs", type=int, default=0, help="processes (default: one for each processor)")
    sweep.add_argument(
        "--what-if", choices=("paper", "unseen"), default="paper",
        help="what becomes of trades that are refused (default: paper)",
    )  # fmt: skip
    sweep.add_argument("--json", action="store_true", help="print the table as JSON")
    sweep.set_defaults(run=_sweep)

    calibrate = commands.add_parser(
        "calibrate", help="find the limits a reference supports, and say how far they hold (exit code 1: no promise)"
    )
    _common(calibrate)
    calibrate.add_argument("reference", metavar="FILE", help="training-period features: CSV, Parquet or JSONL")
    calibrate.add_argument("--timeframe", default="5m", help="candle length (default: 5m)")
    calibrate.add_argument("--model", default="model", help="name of the model in the config (default: model)")
    calibrate.add_argument("--days", type=float, help="at most one false alarm in so many days (default: the config's)")
    calibrate.add_argument("--out", metavar="FILE", help="write the limits as JSON")
    calibrate.add_argument("--json", action="store_true", help="print the report as JSON")
    calibrate.set_defaults(run=_calibrate)

    preflight = commands.add_parser(
        "preflight",
        help="before a model goes live: look-back, look-ahead, odd features, its record (exit code 1: FAIL)",
    )
    _common(preflight)
    preflight.add_argument("--features", metavar="PATH", nargs="+", default=[], help="logged features, or a reference")
    preflight.add_argument(
        "--function", metavar="MODULE:NAME",
        help="your feature function: takes a DataFrame of candles, gives one of features; it is imported and run here",
    )  # fmt: skip
    preflight.add_argument("--candles", metavar="FILE", nargs="+", default=[], help="history for --function")
    preflight.add_argument("--live-candles", type=int, metavar="N", help="how many candles the bot loads live")
    preflight.add_argument("--candles-max", type=int, default=20_000, metavar="N",
                           help="candles given to the function at most (default 20000)")  # fmt: skip
    preflight.add_argument("--tolerance", type=float, default=1e-3, metavar="T",
                           help="what counts as equal, in standard deviations of the feature (0.001)")  # fmt: skip
    preflight.add_argument("--trades", metavar="FILE", nargs="+", default=[], help="what the model did: closed trades")
    preflight.add_argument("--trained-until", metavar="YYYY-MM-DD", help="last day of the training data (UTC)")
    preflight.add_argument("--model", default="model", help="name of the model in the config (default: model)")
    preflight.add_argument("--timeframe", default="5m", help="candle length (default: 5m)")
    preflight.add_argument("--json", action="store_true", help="print the checks as JSON")
    preflight.set_defaults(run=_preflight)

    parity = commands.add_parser(
        "parity",
        help="compare what the bot logged with what its backtest computed, and name the likeliest cause of what "
        "differs (exit code 0: clean, 1: something differs, 2: nothing can be said)",
    )
    _common(parity)
    parity.add_argument("live", metavar="LIVE", help="the bot's log: features, probabilities, candles; file or folder")
    parity.add_argument(
        "backtest", metavar="BACKTEST", nargs="?",
        help="the same from the backtest; left out, LIVE is one file with both (prod_long, backtest_long)",
    )  # fmt: skip
    parity.add_argument(
        "--columns", metavar="LIVE,BACKTEST",
        help="in one file: words by which the columns of the two sides begin or end (default: live, prod, ... and "
        "backtest, bt, ...)",
    )  # fmt: skip
    parity.add_argument("--pair", metavar="P", help="only this market, where files or folders hold several")
    parity.add_argument("--all-pairs", action="store_true", help="every market that both sides have, one by one")
    parity.add_argument("--timeframe", help="candle length (default: told by the times)")
    parity.add_argument(
        "--tolerance", type=float, metavar="R", help="relative difference taken for equal (default 1e-5)"
    )
    parity.add_argument("--out", metavar="DIR", help="folder for report.html, report.json, columns.csv")
    parity.add_argument("--json", action="store_true", help="print the report as JSON")
    parity.set_defaults(run=_parity)

    demo = commands.add_parser("demo", help="a simulated bot and market through a regime break, against a real service")
    demo.add_argument("--once", action="store_true", help="exit after the summary instead of leaving the service up")
    demo.add_argument("--port", type=int, default=8080, help="port of the service (default 8080; taken: a free one)")
    demo.add_argument("--seed", type=int, default=13, help="seed of the simulated market (default 13, a typical one)")
    demo.add_argument("--store", metavar="FILE", help="keep the demo's store here (default: a temporary folder)")
    demo.set_defaults(run=_demo)

    keys = commands.add_parser("keys", help="make, list and revoke the keys that open the service")
    deeds = keys.add_subparsers(dest="deed", required=True, metavar="create|list|revoke")
    create = deeds.add_parser("create", help="make a key; it is printed once, on standard output, and never again")
    create.add_argument(
        "--scope", action="append", required=True, choices=("read", "ingest", "admin"),
        help="read: look. ingest: send and look (a bot). admin: everything, overrides and references too",
    )  # fmt: skip
    create.add_argument("--name", default="", help="for people: which bot, which machine (default: the scope)")
    revoke = deeds.add_parser("revoke", help="end a key; a running service notices within two seconds")
    revoke.add_argument("id", metavar="ID", help="as `regime keys list` shows it")
    for deed in (create, deeds.add_parser("list", help="ids, names, scopes, times; never the keys"), revoke):
        deed.add_argument("--config", metavar="FILE", help="the service's TOML file")
        deed.add_argument("--store", metavar="FILE", help="the service's store (default regimegate.db)")
        deed.add_argument("--keys", metavar="FILE", help="the keys file itself (default: beside the store)")
        deed.add_argument("--json", action="store_true", help="print JSON")
        deed.set_defaults(run=_keys)

    feature_log = commands.add_parser("log", help="the feature log as Parquet tables: make it, see how complete it is")
    tasks = feature_log.add_subparsers(dest="task", required=True, metavar="archive|status")
    for name, about in (
        ("archive", "bring the Parquet tables up to the store (a running service does so every minute)"),
        ("status", "how many of the candles there should be are there, day by day"),
    ):
        task = tasks.add_parser(name, help=about)
        _common(task)
        task.add_argument("--store", metavar="FILE|URL", help="the service's store (default regimegate.db)")
        task.add_argument("--folder", metavar="DIR", help="the archive (default: beside the store)")
        if name == "status":
            task.add_argument("--days", type=int, default=7, help="the last so many UTC days (default 7)")
            task.add_argument("--json", action="store_true", help="print JSON, holes and all")
    feature_log.set_defaults(run=_log)

    verify = commands.add_parser("verify-log", help="read a whole store and name the first damaged row")
    verify.add_argument("store", metavar="FILE|URL")
    verify.set_defaults(run=_verify_log)

    backup = commands.add_parser("backup", help="copy the store while the service runs, and check every row of it")
    _common(backup)
    backup.add_argument("file", metavar="FILE", help="where to; must not exist")
    backup.add_argument("--store", metavar="FILE", help="the service's store (default regimegate.db)")
    backup.set_defaults(run=_backup)

    restore = commands.add_parser("restore", help="make a store from a back-up; its next service begins a new epoch")
    _common(restore)
    restore.add_argument("backup", metavar="BACKUP")
    restore.add_argument("--store", metavar="FILE", help="where to; must not exist (default regimegate.db)")
    restore.set_defaults(run=_restore)

    letters = commands.add_parser("dead-letter", help="events that made judging fail: list them, retry them, drop them")
    actions = letters.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, about in (
        ("list", "show what is open"),
        ("retry", "measure the event once more; the stream goes on if that works"),
        ("drop", "go on without the event; it stays in the log"),
    ):
        action = actions.add_parser(name, help=about)
        _common(action)
        action.add_argument("--store", metavar="FILE|URL", help="the service's store (default regimegate.db)")
        if name == "list":
            action.add_argument("--all", action="store_true", help="those that are closed, too")
            action.add_argument("--json", action="store_true", help="print them as JSON")
            continue
        action.add_argument("id", type=int, help="number of the dead letter")
        action.add_argument("--host", help="where the service answers (default 127.0.0.1)")
        action.add_argument("--port", type=int, help="its port (default 8080)")
        action.add_argument("--actor", default="operator", help="who says so; kept in the log")
        action.add_argument("--reason", default="regime dead-letter", help="why; kept in the log")
    letters.set_defaults(run=_dead_letter)

    alerts = commands.add_parser("alerts", help="try an alert channel; list alerts that were not delivered, send again")
    asked = alerts.add_subparsers(dest="asked", required=True, metavar="test|list|retry|drop")
    test = asked.add_parser("test", help="send one message, and say what became of it (exit code 1: not delivered)")
    test.add_argument("channel", metavar="CHANNEL", help="its name in the config")
    listing = asked.add_parser("list", help="what waits, and what was given up")
    listing.add_argument("--json", action="store_true", help="print JSON")
    retry = asked.add_parser("retry", help="send again what was given up; a receiver knows it by the key it had")
    drop = asked.add_parser("drop", help="forget what was given up")
    for one in (retry, drop):
        which = one.add_mutually_exclusive_group(required=True)
        which.add_argument("ids", nargs="*", default=[], type=int, metavar="NUMBER",
                           help="of the alert, from `regime alerts list`")  # fmt: skip
        which.add_argument("--all", action="store_true", help="all that are listed")
        one.add_argument("--actor", default="operator", help="who says so; kept with the alert")
        one.add_argument("--reason", default="regime alerts", help="why; kept with the alert")
    for one in (listing, retry, drop):
        one.add_argument("--host", help="where the service answers (default 127.0.0.1)")
        one.add_argument("--port", type=int, help="its port (default 8080)")
        one.add_argument("--store", metavar="FILE|URL", help="the store, where no service runs (default regimegate.db)")
    for one in (test, listing, retry, drop):
        _common(one)
        one.set_defaults(run=_alerts)
    return parser


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", metavar="FILE", help="TOML file; see service/config.example.toml")
    command.add_argument("--preset", help="which rules judge: default, conservative, seed-rules")


def _files(command: argparse.ArgumentParser) -> None:
    command.add_argument("--reference", metavar="FILE", help="training-period features: CSV, Parquet or JSONL")
    command.add_argument(
        "--features", metavar="PATH", nargs="+", default=[], help="feature logs: files, folders, globs"
    )
    command.add_argument("--trades", metavar="FILE", nargs="+", default=[], help="closed trades")
    command.add_argument("--candles", metavar="FILE", nargs="+", default=[], help="candles of the market")
    for name, (default, about) in _LABELS.items():
        command.add_argument(f"--{name}", help=f"{about} (default: {default})")


_FILES = ("reference", "features", "trades", "candles")
_LABELS = {
    "model": ("model", "name of the model"),
    "symbol": ("BTC/USDT:USDT", "ccxt symbol"),
    "timeframe": ("5m", "candle length"),
}
"""Of a bot's files, which do not say whose they are; an archive does."""


def _alone(arguments: argparse.Namespace, *others: str) -> None:
    """Refuse what an archive makes meaningless, rather than pass over it."""
    given = [f"--{name.replace('_', '-')}" for name in others if getattr(arguments, name) not in (None, [])]
    if given:
        raise OperatorError(f"--archive holds all that is played, so it takes no {', '.join(given)}: leave it out")


def _serve(arguments: argparse.Namespace) -> int:
    from regime_service.app import serve

    flags = {name: getattr(arguments, name) for name in settings_file.FLAGS}
    settings = settings_file.load(arguments.config, flags=flags)

    def announce(address: str) -> None:
        print(f"regimegate answers at {address}", flush=True)

    return serve(settings, announce)


def _replay(arguments: argparse.Namespace) -> int:
    settings = settings_file.load(arguments.config, flags={"preset": arguments.preset})
    if arguments.archive is not None:
        from regime_service.archive.commands import run_archive_replay

        _alone(arguments, *_FILES, *_LABELS, "out", "what_if")
        return run_archive_replay(Console(), settings.engine, arguments.archive, as_json=arguments.json)
    if arguments.out is None:
        raise OperatorError("say where the report is to go: --out DIR")
    from regime_service.report import run_replay

    options = _replay_options(arguments, settings)
    report = run_replay(options, Console())
    if arguments.json:
        print(json.dumps(report, ensure_ascii=False))
    return EXIT_DONE


def _replay_options(arguments: argparse.Namespace, settings: settings_file.Settings) -> ReplayOptions:
    from regime_service.report import ReplayOptions

    logs = settings.logs
    model, symbol, timeframe = (
        default if getattr(arguments, name) is None else getattr(arguments, name)
        for name, (default, _) in _LABELS.items()
    )
    return ReplayOptions(
        reference=arguments.reference, features=tuple(arguments.features), trades=tuple(arguments.trades) or None,
        candles=tuple(arguments.candles) or None, model=model, symbol=symbol,
        timeframe=timeframe, config=settings.engine, feature_mapping=logs.features,
        trade_mapping=logs.trades, candle_mapping=logs.candles, reference_mapping=logs.reference,
        out=Path(arguments.out), json=arguments.json, what_if=arguments.what_if,
    )  # fmt: skip


def _sweep(arguments: argparse.Namespace) -> int:
    from regime_service.sweep import run_sweep

    settings = settings_file.load(arguments.config, flags={"preset": arguments.preset})
    options: ReplayOptions | ArchiveOptions
    if arguments.archive is None:
        options = _replay_options(arguments, settings)
    else:
        from regime_service.archive.history import ArchiveOptions

        _alone(arguments, *_FILES)
        options = ArchiveOptions(
            folder=arguments.archive, model=arguments.model, symbol=arguments.symbol, timeframe=arguments.timeframe,
            config=settings.engine, out=Path(arguments.out), what_if=arguments.what_if,
        )  # fmt: skip
    return run_sweep(
        Console(), options, arguments.grid, folds=arguments.folds,
        held_out=arguments.held_out, jobs=arguments.jobs, as_json=arguments.json,
    )  # fmt: skip


def _calibrate(arguments: argparse.Namespace) -> int:
    from regime_service.calibrate import run_calibrate

    settings = settings_file.load(arguments.config, flags={"preset": arguments.preset})
    return run_calibrate(
        Console(), arguments.reference, config=settings.engine, mapping=settings.logs.reference, model=arguments.model,
        timeframe=arguments.timeframe, days=arguments.days, out=arguments.out, as_json=arguments.json,
    )  # fmt: skip


def _preflight(arguments: argparse.Namespace) -> int:
    from regime_service.preflight import PreflightOptions, run_preflight

    settings = settings_file.load(arguments.config, flags={"preset": arguments.preset})
    model, logs = settings.engine.model(arguments.model), settings.logs
    options = PreflightOptions(
        features=tuple(arguments.features), function=arguments.function, candles=tuple(arguments.candles),
        trades=tuple(arguments.trades), trained_until=arguments.trained_until or model.trained_until,
        live_candles=arguments.live_candles, candles_max=arguments.candles_max, tolerance=arguments.tolerance,
        timeframe=arguments.timeframe, fee_ratio=model.fee_ratio, payoff_ratio=model.payoff_ratio,
        reference_mapping=logs.reference, candle_mapping=logs.candles, trade_mapping=logs.trades,
    )  # fmt: skip
    return run_preflight(Console(), options, as_json=arguments.json)


def _parity(arguments: argparse.Namespace) -> int:
    from regime_service.parity import ParityOptions, run_parity

    settings = settings_file.load(arguments.config, flags={"preset": arguments.preset})
    words = None if arguments.columns is None else tuple(arguments.columns.split(","))
    if words is not None and (len(words) != 2 or not all(words)):
        raise OperatorError(f"--columns takes two words with a comma between them, got {arguments.columns!r}")
    options = ParityOptions(
        live=arguments.live, backtest=arguments.backtest, columns=words, pair=arguments.pair,
        all_pairs=arguments.all_pairs, timeframe=arguments.timeframe, relative=arguments.tolerance,
        live_mapping=settings.logs.features, backtest_mapping=settings.logs.reference,
        out=None if arguments.out is None else Path(arguments.out), json=arguments.json,
    )  # fmt: skip
    return run_parity(options, Console())


def _demo(arguments: argparse.Namespace) -> int:
    from regime_service.demo import run_demo

    return run_demo(Console(), seed=arguments.seed, port=arguments.port, once=arguments.once, store=arguments.store)


def _keys(arguments: argparse.Namespace) -> int:
    import msgspec

    from regime_service import keys

    flags = {"store": arguments.store, "keys": arguments.keys}
    path = settings_file.load(arguments.config, flags=flags).keys_path()

    def shown(key: keys.Key) -> dict[str, object]:
        # The hash is nobody's business but the service's.
        return {name: value for name, value in msgspec.to_builtins(key).items() if name != "sha256"}

    if arguments.deed == "create":
        key, token = keys.create(path, name=arguments.name or "+".join(arguments.scope), scopes=arguments.scope)
        # The key alone on standard output, so that KEY=$(regime keys create ...) works.
        print(json.dumps({"key": token, **shown(key)}) if arguments.json else token)
        print(
            f"Key {key.id} ({', '.join(key.scopes)}) is in {path}. It is shown this once: only its SHA-256 is kept. "
            "From now on the service asks for a key; a bot sends `Authorization: Bearer <key>`.",
            file=sys.stderr,
        )
        return EXIT_DONE
    found = [keys.revoke(path, arguments.id)] if arguments.deed == "revoke" else keys.read(path)
    if arguments.json:
        listed = [shown(key) for key in found]
        print(json.dumps(listed if arguments.deed == "list" else listed[0], ensure_ascii=False))
        return EXIT_DONE
    for key in found:
        state = f"revoked {key.revoked}" if key.revoked else "valid"
        print(f"{key.id}  {','.join(key.scopes):<18} {key.created}  {state:<28}  {key.name}")
    if not found:
        print(f"no keys in {path}: the service is open, and listens on loopback only", file=sys.stderr)
    return EXIT_DONE


def _log(arguments: argparse.Namespace) -> int:
    from regime_service.archive.commands import run_archive, run_status

    flags = {name: getattr(arguments, name, None) for name in settings_file.FLAGS}
    settings = settings_file.load(arguments.config, flags=flags)
    if arguments.task == "archive":
        return run_archive(Console(), settings, arguments.folder)
    return run_status(Console(), settings, arguments.folder, days=arguments.days, as_json=arguments.json)


def _verify_log(arguments: argparse.Namespace) -> int:
    from regime_service.stores.opening import open_store
    from regime_service.stores.rows import is_url

    if not is_url(arguments.store) and not Path(arguments.store).exists():
        print(f"regime verify-log: the store {arguments.store} does not exist", file=sys.stderr)
        return EXIT_USAGE
    store = open_store(arguments.store, read_only=True)
    rows: dict[str, int] = {}
    try:
        for checked in store.verify():
            rows[checked.table] = checked.rows
    except CorruptionError as error:
        print(f"damaged: {error}", file=sys.stderr)
        return EXIT_NO
    finally:
        store.close()
    print("sound: " + ", ".join(f"{count} {table}" for table, count in rows.items()))
    return EXIT_DONE


def _backup(arguments: argparse.Namespace) -> int:
    from regime_service.backup import copy_store

    store = settings_file.load(arguments.config, flags={"store": arguments.store}).store.where
    copied = copy_store(store, arguments.file)
    print(f"backed up: {copied.events} events, {copied.size} bytes, every row read back: {arguments.file}")
    return EXIT_DONE


def _restore(arguments: argparse.Namespace) -> int:
    from regime_service.backup import copy_store

    store = settings_file.load(arguments.config, flags={"store": arguments.store}).store.where
    copied = copy_store(arguments.backup, store)
    print(f"restored: {copied.events} events, every row read back: {store}; the next service on it begins a new epoch")
    return EXIT_DONE


def _dead_letter(arguments: argparse.Namespace) -> int:
    from regime_service.letters import act_on_letter, list_letters

    flags = {name: getattr(arguments, name, None) for name in settings_file.FLAGS}
    settings = settings_file.load(arguments.config, flags=flags)
    if arguments.action == "list":
        return list_letters(settings, closed=arguments.all, as_json=arguments.json)
    return act_on_letter(settings, arguments.action, arguments.id, actor=arguments.actor, reason=arguments.reason)


def _alerts(arguments: argparse.Namespace) -> int:
    from regime_service.notices import list_alerts, send_test, settle

    flags = {name: getattr(arguments, name, None) for name in settings_file.FLAGS}
    settings = settings_file.load(arguments.config, flags=flags)
    if arguments.asked == "test":
        return send_test(settings, arguments.channel)
    if arguments.asked in ("retry", "drop"):
        return settle(settings, arguments.asked, arguments.ids, actor=arguments.actor, reason=arguments.reason)
    return list_alerts(settings, as_json=arguments.json)


if __name__ == "__main__":
    sys.exit(main())
