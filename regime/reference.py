"""The frozen training-period sample that live distributions are compared with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime.errors import CorruptionError

Floats = NDArray[np.float64]

_MAGIC = b"regimegate-reference-1\n"


class Reference:
    """A sample of features, one row a candle, with the model's probabilities if they were kept.

    Parameters
    ----------
    names
        Feature names, one per column, each once.
    values
        `float64[rows, features]`; NaN means missing, infinities are turned into NaN.
    ts_ms
        Optional `int64[rows]`: candle open times.
    probability_long, probability_short
        Optional `float64[rows]`.
    trained_until_ms
        End of the training data; what comes later is out of sample.

    Raises `ValueError` when shapes do not agree, a name stands twice, or there is no row.
    """

    def __init__(
        self,
        names: Sequence[str],
        values: Floats,
        *,
        ts_ms: NDArray[np.int64] | None = None,
        probability_long: Floats | None = None,
        probability_short: Floats | None = None,
        trained_until_ms: int | None = None,
    ) -> None:
        if values.ndim != 2 or values.shape[1] != len(names):
            raise ValueError(f"a reference needs one column per feature: {len(names)} names, values {values.shape}")
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if list(names).count(name) > 1})
            raise ValueError(f"feature names stand twice: {', '.join(twice[:5])}")
        if values.shape[0] == 0 or values.shape[1] == 0:
            raise ValueError("a reference needs at least one row and one feature")
        order = np.argsort(np.array(names, dtype=object), kind="stable")
        self.names: tuple[str, ...] = tuple(names[i] for i in order)
        clean = np.ascontiguousarray(values[:, order], dtype=np.float64)
        self.values: Floats = np.where(np.isfinite(clean), clean, np.nan)
        self.values.setflags(write=False)
        self.ts_ms = None if ts_ms is None else np.ascontiguousarray(ts_ms, dtype=np.int64)
        self.probability_long = _column(probability_long, self.rows, "probability_long")
        self.probability_short = _column(probability_short, self.rows, "probability_short")
        if self.ts_ms is not None and self.ts_ms.shape != (self.rows,):
            raise ValueError(f"ts_ms has shape {self.ts_ms.shape}, expected ({self.rows},)")
        self.trained_until_ms = trained_until_ms
        self._bytes: bytes | None = None

    @property
    def rows(self) -> int:
        return int(self.values.shape[0])

    @property
    def reference_id(self) -> str:
        """SHA-256 (hex, 32 characters) of the canonical bytes: equal content, equal id."""
        return hashlib.sha256(self.to_bytes()).hexdigest()[:32]

    def missing_share(self) -> Floats:
        """Return `float64[features]`: the share of rows in which each feature is missing."""
        share: Floats = np.isnan(self.values).mean(axis=0)
        return share

    def dead(self) -> NDArray[np.bool_]:
        """Return `bool[features]`: features that take at most one value in the whole sample."""
        low = np.nanmin(np.where(np.isnan(self.values), np.inf, self.values), axis=0)
        high = np.nanmax(np.where(np.isnan(self.values), -np.inf, self.values), axis=0)
        found: NDArray[np.bool_] = ~(high > low)
        return found

    def select(self, names: Sequence[str]) -> Reference:
        """Return the same sample with only the features in `names`."""
        index = {name: i for i, name in enumerate(self.names)}
        return Reference(
            list(names),
            self.values[:, [index[name] for name in names]],
            ts_ms=self.ts_ms,
            probability_long=self.probability_long,
            probability_short=self.probability_short,
            trained_until_ms=self.trained_until_ms,
        )

    def to_bytes(self) -> bytes:
        """Return canonical bytes: a line of JSON, then little-endian arrays. Columns are in name order."""
        if self._bytes is None:
            columns: dict[str, NDArray[Any]] = {"values": self.values.astype("<f8")}
            if self.ts_ms is not None:
                columns["ts_ms"] = self.ts_ms.astype("<i8")
            for name in ("probability_long", "probability_short"):
                column = getattr(self, name)
                if column is not None:
                    columns[name] = column.astype("<f8")
            header = {
                "names": self.names,
                "rows": self.rows,
                "columns": list(columns),
                "trained_until_ms": self.trained_until_ms,
            }
            head = json.dumps(header, sort_keys=True, separators=(",", ":")).encode() + b"\n"
            self._bytes = _MAGIC + head + b"".join(column.tobytes() for column in columns.values())
        return self._bytes

    @classmethod
    def from_bytes(cls, raw: bytes) -> Reference:
        """Inverse of `to_bytes`. Raises `CorruptionError` when the bytes are not what `to_bytes` wrote."""
        try:
            if not raw.startswith(_MAGIC):
                raise ValueError("it does not begin like a reference")
            end = raw.index(b"\n", len(_MAGIC))
            header = json.loads(raw[len(_MAGIC) : end])
            rows, names = int(header["rows"]), [str(name) for name in header["names"]]
            offset = end + 1
            columns: dict[str, NDArray[Any]] = {}
            for name in header["columns"]:
                count = rows * len(names) if name == "values" else rows
                columns[name] = np.frombuffer(raw, "<i8" if name == "ts_ms" else "<f8", count, offset)
                offset += count * 8
            if offset != len(raw):
                raise ValueError("its length is wrong")
            values = columns.pop("values").reshape(rows, len(names))
            return cls(names, values, trained_until_ms=header["trained_until_ms"], **columns)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptionError(f"a stored reference cannot be read: {error}") from error


def _column(values: Floats | None, rows: int, name: str) -> Floats | None:
    if values is None:
        return None
    column = np.ascontiguousarray(values, dtype=np.float64)
    if column.shape != (rows,):
        raise ValueError(f"{name} has shape {column.shape}, expected ({rows},)")
    return column
