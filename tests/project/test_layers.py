"""The shape of the package: who may import whom, and what is done nowhere in it."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flask_pooled_db
from flask_pooled_db.runtime.housekeeper import THREAD_NAME
from flask_pooled_db.runtime.workers import THREADS

PACKAGE = Path(flask_pooled_db.__file__).parent
ROOT = PACKAGE.name

# The folders and modules at the top of the package, and their layers: see docs/design.md.
LAYERS = {
    "errors": 0,
    "config": 1,
    "runtime": 1,
    "drivers": 2,
    "pool": 3,
    "lease": 4,
    "host": 5,
    "signals": 6,
    "telemetry": 6,
    "flask": 7,
    "__init__": 8,
}

# Whoever imports one of these outside of its place has put something in the wrong one.
PLACES = {
    "flask": {
        "flask.commands",
        "flask.context",
        "flask.deadlines",
        "flask.extension",
        "flask.health",
        "flask.metrics",
        "flask.naming",
        "flask.observed",
        "flask.observing",
        "flask.page",
        "flask.serving",
        "flask.telling",
    },
    "werkzeug": {"flask.extension", "flask.page"},
    "blinker": {"flask.telling", "signals"},
    "click": {"flask.commands", "flask.naming"},
    "dbutils": {"lease.dbutils"},
    "sqlite3": {
        "drivers.sqlcipher",
        "drivers.sqlite",
        "drivers.sqlite_connection",
        "drivers.sqlite_cursors",
        "drivers.sqlite_placeholders",
    },
    "pymysql": set(),
    "mariadb": set(),
    "psycopg": set(),
    "sqlcipher3": set(),
    "gevent": set(),
    "greenlet": set(),
    "opentelemetry": {"telemetry.measures", "telemetry.spans"},
    "prometheus_client": {"flask.metrics", "flask.observed", "telemetry.prometheus"},
}


def paths() -> Iterator[tuple[str, Path]]:
    """Every module of the package by its name in it."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts), path


@functools.cache
def modules() -> list[tuple[str, ast.Module]]:
    """Every module of the package by its name in it, parsed."""
    return [(name, ast.parse(path.read_text(encoding="utf-8"))) for name, path in paths()]


each_module = pytest.mark.parametrize("name", [name for name, _ in paths()])


@pytest.fixture
def tree(name: str) -> ast.Module:
    """The module that a test is about, parsed when it runs: each process collects all tests."""
    return dict(modules())[name]


@functools.cache
def imports(tree: ast.Module) -> frozenset[str]:
    """The full names of what a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def own_imports(tree: ast.Module) -> set[str]:
    """The modules of the package that a module imports, by their name at its top."""
    inner = {name.removeprefix(f"{ROOT}.") for name in imports(tree) if name.startswith(ROOT)}
    return {name.partition(".")[0] for name in inner} & LAYERS.keys()


def test_modules_of_layers() -> None:
    """The table lists exactly the modules of the package."""
    assert {name.partition(".")[0] for name, _ in modules()} == LAYERS.keys()


@each_module
def test_imports_point_downward(name: str, tree: ast.Module) -> None:
    """No module imports from a higher layer, not even for its types."""
    layer = LAYERS[name.partition(".")[0]]
    higher = {other for other in own_imports(tree) if LAYERS[other] > layer}
    assert not higher, f"{name} (layer {layer}) imports {higher}"


def test_no_cyclic_imports() -> None:
    """No modules import each other, within a folder either."""
    names = {name for name, _ in modules()}
    graph = {}
    for name, tree in modules():
        inner = {full.removeprefix(f"{ROOT}.") for full in imports(tree) if full.startswith(ROOT)}
        graph[name] = inner & names - {name, name.partition(".")[0]}
    while graph:
        free = {name for name, needs in graph.items() if not needs & graph.keys()}
        assert free, f"these import each other: {sorted(graph)}"
        for name in free:
            del graph[name]


@functools.cache
def private_names_of_its_own(tree: ast.Module) -> set[str]:
    """Return the private names that a module's classes and functions define."""
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    names |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


# Its classes extend a driver's: their private names are the driver's.
EXTEND_A_DRIVER = ("drivers.pymysql_connection", "drivers.pymysql_status")


def private_names_of_others(tree: ast.Module) -> set[str]:
    """Return the private names that a module uses of anything but `self`."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    }


@each_module
def test_no_private_name_of_another_module_is_used(name: str, tree: ast.Module) -> None:
    """Objects of one class know each other; another module's are known by their public names. (The
    private names of drivers' objects are listed by a test of their own.)
    """
    others = [
        private_names_of_its_own(other)
        for at, other in modules()
        if at not in (name, *EXTEND_A_DRIVER)
    ]
    theirs = set().union(*others) - private_names_of_its_own(tree)
    assert not private_names_of_others(tree) & theirs


@pytest.mark.parametrize("package", PLACES)
def test_places_of_dependencies(package: str) -> None:
    """Each dependency is imported only where it belongs: in modules, or in a folder's folder."""
    found = {
        ".".join(name.split(".")[:2])
        for name, tree in modules()
        if any(module.split(".")[0] == package for module in imports(tree))
    }
    assert found == PLACES[package]


def test_import_without_drivers() -> None:
    """Importing the package imports no driver, and nothing that an extra is for."""
    code = (
        "import sys, flask_pooled_db\n"
        "names = {'pymysql', 'mariadb', 'psycopg', 'sqlcipher3', 'gevent', 'prometheus_client'}\n"
        "print(*{*names, 'opentelemetry'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_import_without_asyncio() -> None:
    """Importing the package does not import asyncio: it takes longer to tell an owner then."""
    code = (
        "import sys, dbutils.pooled_db, flask.cli\nbefore = 'asyncio' in sys.modules\n"
        "import flask_pooled_db\nprint(before or 'asyncio' not in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_p7_import_starts_no_thread() -> None:
    """Importing the package starts no thread."""
    code = "import threading, flask_pooled_db\nprint(threading.active_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


@each_module
def test_no_wall_clock(name: str, tree: ast.Module) -> None:
    """No module reads the wall clock: ages are monotonic. One sentence of an error names a time of
    the day, to be looked up in the server's log, and spans have one.
    """
    if name in ("pool.reports", "telemetry.spans"):
        return
    names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not names & {"time.time", "time.time_ns", "datetime.now", "datetime.datetime.now"}
    assert not imports(tree) & {"time.time", "time.time_ns", "datetime", "datetime.datetime"}


def thread_calls() -> Iterator[tuple[str, ast.Call]]:
    """Every place where the package makes a thread."""
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
                "Thread",
                "Timer",
            ):
                yield name, node


def test_threads_are_named_daemons() -> None:
    """Every thread is a daemon with a name."""
    calls = list(thread_calls())
    assert {name for name, _ in calls} == {"runtime.housekeeper", "runtime.workers"}
    for name, call in calls:
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("daemon") == "True", f"{name} makes a thread that is no daemon"
        label = given.get("name", "").removeprefix("f")
        assert label in ("THREAD_NAME", "THREADS + name"), name
    assert THREAD_NAME.startswith(THREADS)
    assert THREADS == "flask-pooled-db "


def test_public_names() -> None:
    """Each name in `__all__` exists and has a docstring."""
    for name in flask_pooled_db.__all__:
        thing = getattr(flask_pooled_db, name)
        assert thing.__doc__, f"{name} has no docstring"
        assert not name.startswith("_")


def test_py_typed() -> None:
    """The package ships its types."""
    assert (PACKAGE / "py.typed").exists()


@each_module
def test_module_docstrings(name: str, tree: ast.Module) -> None:
    """Every module has a docstring."""
    assert ast.get_docstring(tree), name
