"""Serve the app: gunicorn -c example_app/gunicorn.conf.py

The server sees at most workers x POOLED_DB_MAXCONNECTIONS connections, because every worker has
a pool of its own, and workers x POOLED_DB_MAX_BINDS x 2 to the workshops' databases (see
tenants.py): 3 x 20 + 3 x 10 x 2. Keep that below its max_connections.
"""

import os
from typing import Any

wsgi_app = "example_app:create_app()"
bind = os.environ.get("GUNICORN_BIND", "127.0.0.1:8000")

workers = int(os.environ.get("WEB_CONCURRENCY", "3"))
worker_class = os.environ.get("GUNICORN_WORKER_CLASS", "gthread")
# With more than one thread gunicorn makes a sync worker a gthread one.
threads = int(os.environ.get("GUNICORN_THREADS", "1" if worker_class == "sync" else "16"))
# A page's websocket takes a thread for as long as the page is open: four are kept for requests. A
# sync worker, which a single socket would occupy until `timeout`, has none.
os.environ.setdefault("FLASK_LIVE_SOCKETS", str(max(0, threads - 4)))

# Above POOLED_DB_ACQUIRE_TIMEOUT: a request that waits for a connection is answered, not killed.
timeout = 30
# On SIGTERM requests under way have this long to end. Sockets end by themselves, see below.
graceful_timeout = 30

# A worker is replaced now and then, and not all of them at once.
max_requests = 10_000
max_requests_jitter = 1_000

# Its default path is one for all of a user's gunicorns, which would get in each other's way.
control_socket_disable = True


def post_worker_init(worker: Any) -> None:
    """Let the app's sockets know when their worker is to end."""
    worker.wsgi.extensions["is_stopping"] = lambda: not worker.alive
