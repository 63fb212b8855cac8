"""The door: HTTP in, decisions out.

ports.py     what this room needs from the rest of the house, as protocols; `app` hands it in
api.py       the routes of the contract, with their schema
problems.py  errors as application/problem+json
gate.py      who may knock: Host, Origin, body size, content type
lease.py     how long an answer is good for
"""
