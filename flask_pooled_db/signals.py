"""What an app may subscribe to, with blinker as Flask's own signals.

The sender is the app, and `bind` is a keyword of each. A receiver runs in an app context. What it
raises is logged, and stops neither what is told nor the other receivers.

Told in the thread in which it happens:

- `bind_opened`: a bind was opened by its name. Keyword: `reason`.
- `bind_closed`: a bind was closed, so that nobody gets a connection from it any more. Keyword:
  `reason`. For one bind, the two come in turn.

Told soon after, in a thread of their own, so that a receiver may block, or use the database: that
harms nobody. If receivers take too long, and 1,000 are to be told, the oldest is dropped.

- `connection_opened`. Keyword: `seconds`, which it took.
- `connection_evicted`: the pool closed a connection. Keywords: `reason`, a word of a few as in
  `PoolStats.evictions`, and `detail`, a sentence.
- `checkout_timed_out`: a caller got no connection. Keyword: `seconds`, for which it had waited.
- `leak_found`: a lease was taken back from a caller that did not return it, or has been out for
  longer than POOLED_DB_LEAK_THRESHOLD. Keywords: `place`, the file and the line where it was taken,
  or None; `seconds`, for which it has been out, None if it was taken back.
- `transaction_aborted`: a transaction was lost, or could not be committed. Keyword: `reason`, the
  class of the error and its number.
- `database_down`: connecting fails. Keyword: `reason`, as above.
- `database_back`: connecting succeeds again.
"""

from __future__ import annotations

from blinker import NamedSignal, Namespace

__all__ = [
    "NamedSignal",
    "bind_closed",
    "bind_opened",
    "checkout_timed_out",
    "connection_evicted",
    "connection_opened",
    "database_back",
    "database_down",
    "leak_found",
    "transaction_aborted",
]

_signals = Namespace()

bind_opened = _signals.signal("bind-opened")
bind_closed = _signals.signal("bind-closed")

connection_opened = _signals.signal("connection-opened")
connection_evicted = _signals.signal("connection-evicted")
checkout_timed_out = _signals.signal("checkout-timed-out")
leak_found = _signals.signal("leak-found")
transaction_aborted = _signals.signal("transaction-aborted")
database_down = _signals.signal("database-down")
database_back = _signals.signal("database-back")
