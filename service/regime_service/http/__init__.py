"""The door: HTTP in, decisions out.

connections.py  slow and silent connections, and how many there may be; requests that need no task
gate.py         who may knock: Host, Origin, key, readiness, size; then to its handler, and out again
auth.py         which key a request bears, and what it opens; limits.py: how often, and how many streams
exchange.py     one request, one answer, as plain objects over ASGI; reply.py: an answer onto the wire
routes.py       the table of routes, and the document made of it
api.py          the calls of the contract; operations.py: those of an operator about the store
answers.py      decisions as answers, spelled once each; lease.py: how long one is good for
stream.py       answers pushed as they change
schema.py       bodies, answers and query parameters as OpenAPI says them; docs.py: as a page
problems.py     errors as application/problem+json

What the rest of the house gives this room stands in `regime_service.ports`; the wiring hands it in.
"""
