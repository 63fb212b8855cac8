"""The feature log: every event of the store, of every kind, as Parquet tables that any tool reads.

    rows.py     one event <-> one row: nothing is lost on the way, nothing is rounded
    folder.py   the tables: one file a day, for each stream and kind; appended to, read back in the order of the log
    filling.py  from the store into the folder, by hand (`regime log archive`) or while the service runs
    status.py   how complete the log is, day by day
    history.py  one stream of it, to be played under other configurations

The archive is made of the store and can be made again from it at any time; the store is the truth. Nothing is ever
unpickled, and a file is replaced in one step: a reader sees it whole, before or after.
"""
