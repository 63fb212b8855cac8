"""The pictures, drawn once: the page at `/` and the report of `regime replay` show the same ones.

shown.py          what they show, as plain values: prices, states, drift; and how a long time is thinned out
distance.py       how far each feature lies from the training period
svg.py            axes, round values, names that fit
market.py         pictures over time: price, states, thresholds, drift by feature, a detector against its limit
trades.py         pictures of what came of it: claims, win rate against break-even, what the guard is worth
figures.html.j2   each picture with its legend, as both templates call it
look.css          colours by day and night, signs and patterns: all that a picture needs of a style sheet

Who draws is handed values. Nothing here asks a store, a clock, a file or the network, and no picture needs a script.
"""
