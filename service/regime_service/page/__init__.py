"""The page at `/`: what every stream says now, why, since when, and what would lift it; and one page for each stream.

sessions.py  who is logged in: a key for a cookie, and the tokens that forms must bear
history.py   what the pictures show, read from the store when somebody looks
words.py     sentences: how long ago, what an override would do
views.py     what the templates are given
routes.py    one request in, one answer out
mount.py     the same, behind the HTTP door

Rendered on the server, readable without scripts; `regime_service.drawing` draws the pictures, as for the reports.
`assets/page.js` renews what is shown and draws the charts that can be zoomed with uPlot (MIT, its licence beside it);
there is no build step and nothing is fetched from elsewhere.
"""
