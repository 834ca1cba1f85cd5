"""What an app may subscribe to, with blinker as Flask's own signals.

The sender is the app. A receiver runs in the thread in which it happens, in an app context. What it
raises is logged, and stops neither what is told nor the other receivers.

- `bind_opened`: a bind was opened by its name. Keywords: `bind`, its name, and `reason`.
- `bind_closed`: a bind was closed, so that nobody gets a connection from it any more. Keywords:
  `bind` and `reason`. For one bind, the two come in turn.
"""

from __future__ import annotations

from blinker import NamedSignal, Namespace

__all__ = ["NamedSignal", "bind_closed", "bind_opened"]

_signals = Namespace()

bind_opened = _signals.signal("bind-opened")
bind_closed = _signals.signal("bind-closed")
