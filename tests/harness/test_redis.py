"""The private Redis of the tests."""

from __future__ import annotations

import os

import pytest
import redis

from harness.redis import RedisServer


@pytest.mark.on_server
def test_private_redis() -> None:
    """It listens on 127.0.0.1 alone, keeps nothing on disk, and leaves neither a process nor a
    folder.
    """
    with RedisServer() as server, RedisServer() as other:
        with (
            redis.Redis.from_url(server.url) as client,
            redis.Redis.from_url(other.url) as stranger,
        ):
            client.set("key", "value")
            assert client.config_get("bind") == {"bind": "127.0.0.1"}
            assert client.config_get("save") == {"save": ""}
            assert stranger.get("key") is None
            pid = client.info("server")["process_id"]
            folder = client.config_get("dir")["dir"]
            server.empty()
            assert client.get("key") is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not os.path.lexists(folder)
