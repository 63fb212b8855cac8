"""Chi-square scan: have many features left the reference's mean by a little, at any time of the last rows?"""

from __future__ import annotations

from regime.scan_bank import ScanBank


class ChiSquare(ScanBank):
    """Sum of squares over all features, over the windows 1, 2, 4, ... `longest`.

    With U_f(w) the sum of the last w standardised values of feature f, over its standard deviation,

        G(w) = sum over live features of U_f(w)^2
        statistic = max over w of (G(w) - usual(w)) / (spread(w) limit(w))        rings over 1

    For independent features G(w) is Hotelling's T^2 of the mean of the last w rows, with a diagonal covariance;
    features that are alike only widen `spread`. The best there is where nearly every feature moves and none of them by
    enough to be seen alone; a change of one feature among hundreds drowns (see `xie_siegmund`).

    `usual`, `spread` and `limit` are those of `regime.scan_bank`: mean and standard deviation of G(w) over the
    reference's own windows, and a saddlepoint quantile.

    **Run length, measured** (`python tests/bench/bench_scans.py --seed 618000`, as all figures here). Independent
    normal values, run to the first alarm, rows between alarms over `arl`, 30 - 400 alarms each:

    | reference | 1 feature, 1,000 asked | 1, 5,000 | 20, 1,000 | 200, 1,000 | 200, 5,000 |
    |---|---|---|---|---|---|
    | 26,000 rows | 1.29 | 1.13 | 1.07 | 0.81 | - |
    | 2,000 rows | 1.37 | 1.30 | 1.18 | 1.21 | 0.75 |
    | 500 rows | 1.56 | - | - | - | - |

    50 features under the default of 8,640: 5,200 (6 alarms, so 2,400 - 14,000; 9,900 on the seed of development,
    32300).

    **Delay, measured.** 195 features, limit tuned to one alarm in 5,000 rows, reference of 5,000 rows, change after 300
    rows (60 runs), rows and, in brackets, as a multiple of the CUSUM that knows both laws and the features: one by 1.0
    86 (6.3), ten by 0.5 38 (6.1), ten by 0.25 153 (7.5), all by 0.1 45 (5.8), all by 0.05 194 (7.7). The other
    detectors stand beside it in `xie_siegmund`.

    **When it misleads.** `arl` is a calculation for independent normal values. `usual` and `spread` follow the
    reference where values are alike in time, the shape of the tail does not. Rows to the first alarm where 8,640 were
    asked (reference of 26,000 rows; 6 runs to 40,000 rows, 4 to 20,000 for the market; alarms in brackets; seed 32300
    was before limits took account of skewness):

    | 50 alike (correlation 0.8) | heavy tails (t5) | AR(1) 0.5 | AR(1) 0.9 | market (130): mild, harsh |
    |---|---|---|---|---|
    | 16,200 (6) | 250 (6) | 33,600 (4) | 70,000 (3) | 26,000 (2), 63,000 (1); seed 32300 13,000 (3), 22,000 (2) |

    So on autocorrelated features it does not ring without end as a CUSUM does, but the rate is an accident: it depends
    on what the reference happens to hold, and a spread widened by the reference's own waves makes it as deaf as it is
    quiet. One value far out is a large square, so heavy tails ring. Only the mean of a feature is watched, no change of
    its scale. For a rate that holds, `calibrated` has running sums of squares over all features among its channels,
    with limits counted on the reference.

    `window` says how many rows ago the change began, to the next power of 2. A feature that is dead in the reference is
    not watched; missing values are skipped, and a window is so many of a feature's own values. A window that fits less
    than four times into the reference is left out; with none left the limit is infinite.

    A row of 200 features costs 22 us, a quarter of `focus` in the same run (`python tests/bench/bench_kernels.py`, on a
    busy machine), `reset` on 26,000 rows so many times a row; the state is 840 kB for them.

    Parameters
    ----------
    longest
        The longest window, a power of 2 up to 4,096.
    arl
        Rows between false alarms, if all values are independent and normal.

    Raises `ValueError` for an option that is none of these.

    Examples
    --------
    >>> import numpy as np
    >>> from regime.reference import Reference
    >>> rng = np.random.default_rng(42)
    >>> scan = ChiSquare()
    >>> scan.reset(Reference([f"f{i:02}" for i in range(50)], rng.standard_normal((4000, 50))))
    >>> stream = rng.standard_normal((1000, 50))
    >>> stream[500:] += 0.2
    >>> for i, x in enumerate(stream):
    ...     scan.update(x)
    ...     if scan.drift_detected:
    ...         print(f"drift at row {i}, in the last {scan.window} rows")
    ...         break
    drift at row 529, in the last 32 rows

    References
    ----------
    H. Hotelling. Multivariate quality control. In: Techniques of Statistical Analysis, McGraw-Hill (1947), 111-184.
    Y. Xie and D. Siegmund. Sequential multi-sensor change-point detection. Annals of Statistics 41, 2 (2013), 670-692.
    """

    def __init__(self, *, longest: int = 512, arl: float = 8640.0) -> None:
        super().__init__(sparse=0.0, longest=longest, arl=arl)

    @classmethod
    def examples(cls) -> list[ChiSquare]:
        """Instances the contract suite is run over."""
        return [cls(arl=1e6), cls(longest=64, arl=1e6)]


__plugin__ = ChiSquare
