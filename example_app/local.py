"""Who may see the page of the pools, and make trouble: requests from this machine alone."""

from ipaddress import ip_address

from flask import request

# A proxy on this machine makes everybody look local. It says for whom it asks, in one of these.
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")

# A site whose name was made to mean 127.0.0.1 has the browser ask for that name.
HOSTS = ("127.0.0.1", "localhost", "[::1]")


def is_local() -> bool:
    """Return whether a request comes from this machine, and not through a proxy on it.

    An app with users would ask here whether one of its administrators is signed in.
    """
    if any(name in request.headers for name in FORWARDED):
        return False
    if request.host.rpartition(":")[0] not in HOSTS and request.host not in HOSTS:
        return False
    try:
        return ip_address(request.remote_addr or "").is_loopback
    except ValueError:  # a socket in the file system has no address
        return False
