"""What a page says is wrong: each rule, from numbers that are made up."""

from __future__ import annotations

from typing import Any

import pytest

from flask_pooled_db.host import HostStats
from flask_pooled_db.telemetry.finding import BAD, NOTE, WARNING, Finding
from flask_pooled_db.telemetry.findings import HEADLINES, RULES, findings, verdict
from flask_pooled_db.telemetry.past import Past, sample_of
from tests.support.page_scenes import SCENES, host, lease, pool, process


def one(**changes: Any) -> HostStats:
    """A host with one worker whose default pool has these numbers."""
    return host(process(pools={"default": pool(**changes)}))


def grown(seconds: float = 61.0, **changes: Any) -> tuple[HostStats, Past]:
    """A host whose counters were at 0 before, and what was seen then."""
    return one(**changes), Past(seconds, sample_of(one(), 0.0), {})


def only(stats: HostStats, past: Past | None = None) -> Finding:
    (found,) = findings(stats, past)
    return found


def test_all_well() -> None:
    """Pools that work are nothing to tell."""
    stats = one(in_use=3, open=5, idle=2)
    assert findings(stats) == []
    assert verdict([], stats) == {"severity": "good", "text": "All is well"}


def test_nobody_yet() -> None:
    """A host on which no worker has used a database is not said to be well."""
    assert verdict([], HostStats())["text"] == "No worker has used a database yet"


def test_full_pool() -> None:
    """A pool that is used up and has callers who wait is bad: who holds it, for how long, how much
    of that in vain, where, and what to ask.
    """
    held = [lease(age=12.0, idle=11.4, rests_for=11.0) for _ in range(18)]
    numbers = {"default": pool(in_use=20, open=20, waiting=5)}
    rest = [lease("endpoint 'search'", 0.5, idle=0.0) for _ in range(2)]
    found = only(host(process(pools=numbers, leases=[*held, *rest])))
    assert found.severity == BAD
    assert found.title == (
        "The default database has no free connection in worker 4101, and 5 callers wait"
    )
    assert found.detail == (
        "Endpoint 'orders' holds 18 of 20 connections, on average 12 s, 95 % of it idle, taken at "
        "shop/views/orders.py:41; endpoint 'search' 2."
    )
    assert "call something slow inside its block?" in found.remedy


def test_full_pool_by_short_leases() -> None:
    """Where each connection is held for a moment, there is more load than connections."""
    held = [lease(age=0.1) for _ in range(20)]
    numbers = {"default": pool(in_use=20, open=20, waiting=1)}
    found = only(host(process(pools=numbers, leases=held)))
    assert "raise POOLED_DB_MAXCONNECTIONS" in found.remedy
    assert found.title.endswith(", and 1 caller waits")


def test_full_pool_by_slow_statements() -> None:
    """Where statements take the time, these are to be looked at."""
    held = [lease(age=9.0, idle=0.2, rests_for=0.0) for _ in range(20)]
    found = only(host(process(pools={"default": pool(in_use=20, waiting=1)}, leases=held)))
    assert "The statements of endpoint 'orders' take the time" in found.remedy


def test_full_pool_of_unknown_holders() -> None:
    """More connections than leases are told of: the finding says that it knows a part."""
    held = [lease(age=9.0) for _ in range(20)]
    full = pool(in_use=50, maxconnections=50)
    found = only(host(process(pools={"default": full}, leases=held)))
    assert found.severity == WARNING  # nobody waits
    assert "holds 20 of the 20 connections that are held for longest" in found.detail
    assert "All 20 connections are in use." in only(one(in_use=20)).detail


def test_waiting_while_connecting() -> None:
    """Callers who wait though there is room are worth knowing, and nothing wrong."""
    stats = one(in_use=3, waiting=2)
    assert only(stats).severity == NOTE
    assert verdict(findings(stats), stats)["severity"] == "good"


def test_database_away() -> None:
    """A database that is away: which one, since when, why. What follows from it is not told."""
    down = {"since": 12.0, "reason": "OperationalError (2003)", "refuses": True}
    stats, past = grown(down=down, waiting=3, timeouts=9, connect_errors=30, aborted=1)
    found = only(stats, past)
    assert (found.kind, found.severity) == ("away", BAD)
    assert found.title == "The default database has been away for 12 s"
    assert "OperationalError (2003). Callers are refused at once." in found.detail
    assert "mysql db.internal:3306/shop" in found.remedy
    stats = one(down={**down, "refuses": False})
    assert "Callers wait for a connection." in only(stats).detail


@pytest.mark.parametrize(
    ("counter", "severity", "words"),
    [
        ("timeouts", BAD, "2 callers of the default database got no connection in the last minute"),
        ("outcomes_unknown", BAD, "2 COMMITs of the default database got no answer"),
        ("aborted", WARNING, "2 transactions of the default database were lost"),
        ("leaked", WARNING, "2 connections of the default database were never given back"),
        ("connect_errors", WARNING, "2 connects to the default database failed"),
    ],
)
def test_counters(counter: str, severity: str, words: str) -> None:
    """What has happened in the last minute is told with its number, and what to do."""
    found = only(*grown(**{counter: 2}))
    assert found.severity == severity
    assert words in found.title
    assert found.remedy
    stats = one(**{counter: 2})
    assert findings(stats, Past(61.0, sample_of(stats, 0.0), {})) == []
    assert findings(stats) == []


def test_short_past() -> None:
    """Who has looked for some seconds alone says so."""
    assert "got no connection in the last 8 s" in only(*grown(7.2, timeouts=1)).title


def test_dead_connections() -> None:
    """Connections that the server closes are told from a few on; those that broke, as a note."""
    found = only(*grown(evictions={"dead": 3}))
    assert "3 idle connections of the default database were found dead" in found.title
    assert "wait_timeout" in found.remedy
    assert findings(*grown(evictions={"dead": 2, "idle": 90})) == []
    assert only(*grown(evictions={"broken": 1})).severity == NOTE


def test_long_leases() -> None:
    """A lease that rests in a transaction, or for half a minute, is told with its place."""
    kept = lease("endpoint 'export'", 45.0, rests_for=44.0, in_transaction=True)
    found = only(host(process(leases=[kept, kept, lease(age=60, rests_for=2.0)])))
    assert found.title == (
        "Endpoint 'export' has held 2 connections of the default database for 45 s with a "
        "transaction open"
    )
    assert "No statement has run for 44 s. Taken at shop/views/orders.py:41." in found.detail
    calm = lease(age=29.0, rests_for=29.0), lease(age=90, rests_for=9.0, in_transaction=True)
    assert findings(host(process(leases=list(calm), age=0.0))) == []


def test_silent_worker() -> None:
    """A worker that publishes nothing hangs; what it held then is not judged."""
    found = only(host(process(age=8.0, leases=[lease(age=90)]), process(4102)))
    assert found.title == "Worker 4101 has published nothing for 8.0 s"


def test_ended_workers() -> None:
    """One worker that ended is a note; many, or the last one, are a warning."""
    stats = host(process(4101), process(4102))
    before = sample_of(stats, 0.0)
    found = only(stats, Past(61.0, before, {"t9": 9}))
    assert (found.severity, found.title) == (
        NOTE,
        "1 worker has ended in the last minute; 2 workers live now",
    )
    gone = {f"t{pid}": pid for pid in range(1, 9)}
    found = only(stats, Past(61.0, before, gone))
    assert found.severity == WARNING
    assert "Ended: 1, 2, 3, 4, 5, 6 and more." in found.detail
    assert "0 workers live now" in only(host(), Past(61.0, before, {"t1": 1})).title


@pytest.mark.parametrize(("number", "severity"), [(79, None), (80, WARNING), (95, BAD)])
def test_near_max_connections(number: int, severity: str | None) -> None:
    """A server that is nearly out of connections is told before it refuses."""
    found = findings(one(open=7, server={"connections": number, "max_connections": 100}))
    assert [each.severity for each in found] == ([severity] if severity else [])
    if found:
        assert found[
            0
        ].title == f"The server of the default database has {number} of its 100 conn" + ("ections")
        assert "7 of them are this host's" in found[0].detail


def test_server_of_several_binds() -> None:
    """What is wrong with a server is told once, and not for each of its binds."""
    load = {"connections": 99, "max_connections": 100, "in_transaction": 1, "oldest": 90.0}
    pools = {name: pool(open=2, server={**load, "at": "db:3306"}) for name in ("a", "b", "c")}
    pools |= {"d": pool(server={**load, "at": "other:3306"}), "e": pool(server=load)}
    found = findings(host(process(pools=pools)))
    for kind in ("near-limit", "rests-in-transaction"):
        assert [each.bind for each in found if each.kind == kind] == ["a", "d", "e"]
    assert "6 of them are this host's" in found[0].detail


def test_workers_that_are_gone() -> None:
    """What is wrong is told first, also where no worker lives; "all is well" never without one."""
    before = sample_of(one(timeouts=0), 0.0)
    totals = {"pools": {"default": {"timeouts": 5}}}
    stats = HostStats((), totals, totals, None)
    assert verdict(findings(stats, Past(30.0, before, {})), stats)["severity"] == BAD
    assert verdict([], stats)["text"] == "No worker has used a database yet"


def test_own_numbers_alone() -> None:
    """A directory that can't be used: these are one worker's numbers, and why."""
    stats = host(process(token=""), problem="it is a link, which is never followed")
    found = only(stats)
    assert found.title == "These are the numbers of one worker alone"
    assert found.detail == "it is a link, which is never followed."
    assert "POOLED_DB_RUNTIME_DIR" in found.remedy
    assert found.severity == WARNING
    assert "could not publish" in only(host(process(), problem="full")).title


def test_own_numbers_as_wanted() -> None:
    """Where workers are not to meet, nothing is wrong with that."""
    stats = host(process(token=""), problem="POOLED_DB_RUNTIME_DIR is False")
    assert only(stats).severity == NOTE
    assert verdict(findings(stats), stats)["text"] == "All is well"


def test_slow_statements() -> None:
    """Slow statements of the last minute are worth knowing, with who ran most of them."""
    stats = host(process(slow_statements={"search": 4, "orders": 1}))
    found = only(stats, Past(61.0, sample_of(host(process()), 0.0), {}))
    assert (found.severity, found.title) == (NOTE, "5 statements were slow in the last minute")
    assert found.detail == "Search ran 4 of them."


def test_many_alike() -> None:
    """Two hundred databases that are away are three findings, and not two hundred."""
    down = {"since": 12.0, "reason": "x", "refuses": True}
    pools = {f"customer-{number}": pool(down=down) for number in range(200)}
    found = findings(host(process(pools=pools)))
    assert len(found) == 3
    assert found[-1].title.startswith("The same holds for 198 other databases: 'customer-2', ")


def test_worst_first() -> None:
    """What fails comes before what may, and that before what is worth knowing."""
    stats, past = grown(timeouts=1, aborted=1, evictions={"broken": 1})
    found = findings(stats, past)
    assert [each.severity for each in found] == [BAD, WARNING, NOTE]
    assert verdict(found, stats) == {
        "severity": BAD,
        "text": "Callers got no connection, and 1 more",
    }


def test_hostile_names() -> None:
    """No name from outside can turn a sentence around, begin a new line, or go on for ever."""
    for each in findings(SCENES["hostile"](60.0)):
        for sentence in (each.title, each.detail, each.remedy):
            assert sentence.isprintable(), sentence
            assert len(sentence) < 1500


def test_headlines() -> None:
    """The first line knows each kind of finding that disturbs."""
    kinds = set()
    for scene in SCENES.values():
        for at in (0.0, 30.0, 100.0):
            before = sample_of(scene(0.0), 0.0)
            past = Past(at, before, {"gone": 1, "gone too": 2, "and": 3})
            found = findings(scene(at), past)
            kinds |= {each.kind for each in found if each.severity != NOTE}
    assert {kind for kind in kinds if not kind.endswith("-more")} <= HEADLINES.keys()
    assert len(RULES) == 17


@pytest.mark.parametrize(("oldest", "severity"), [(None, None), (59.0, None), (61.0, WARNING)])
def test_rests_in_transaction(oldest: float | None, severity: str | None) -> None:
    """A transaction in which nothing runs for long is told of, whosever it is on the server."""
    server = {"connections": 5, "max_connections": 100, "in_transaction": 1, "oldest": oldest}
    found = findings(one(server=server))
    assert [each.severity for each in found] == ([severity] if severity else [])
    if found:
        assert found[0].title == (
            "1 connection of the server of the default database is idle in a transaction, for up "
            "to 61 s"
        )
