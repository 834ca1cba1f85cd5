"""The shape of the package: who may import whom, and what is done nowhere in it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flask_pooled_db

PACKAGE = Path(flask_pooled_db.__file__).parent
ROOT = PACKAGE.name

LAYERS = {
    "errors": 0,
    "dbutils_names": 0,
    "url": 1,
    "config": 1,
    "stats": 1,
    "servers": 1,
    "ownership": 2,
    "threads": 1,
    "housekeeping": 2,
    "drivers": 2,
    "interrupter": 3,
    "connection": 3,
    "lease": 3,
    "dbapi": 3,
    "process": 4,
    "engine": 4,
    "pool": 4,
    "transaction": 5,
    "extension": 7,
    "__init__": 8,
}

# Whoever imports one of these outside of its place has put something in the wrong one.
PLACES = {
    "flask": {"extension"},
    "werkzeug": {"extension"},
    "dbutils": {"connection", "engine"},
    "sqlite3": {"drivers.sqlite"},
    "pymysql": set(),
    "mariadb": set(),
    "psycopg": set(),
    "gevent": set(),
    "greenlet": set(),
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the package by its name in it, parsed."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)
        yield name, ast.parse(path.read_text(encoding="utf-8"))


each_module = pytest.mark.parametrize(
    ("name", "tree"), [pytest.param(name, tree, id=name) for name, tree in modules()]
)


def imports(tree: ast.Module) -> set[str]:
    """The full names of what a module imports, wherever in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


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
    """No modules import each other."""
    graph: dict[str, set[str]] = {}
    for name, tree in modules():
        top = name.partition(".")[0]
        graph.setdefault(top, set()).update(own_imports(tree) - {top})
    while graph:
        free = {name for name, needs in graph.items() if not needs & graph.keys()}
        assert free, f"these import each other: {sorted(graph)}"
        for name in free:
            del graph[name]


@pytest.mark.parametrize("package", PLACES)
def test_places_of_dependencies(package: str) -> None:
    """Each dependency is imported only where it belongs."""
    found = {
        name
        for name, tree in modules()
        if any(module.split(".")[0] == package for module in imports(tree))
    }
    assert found == PLACES[package]


def test_import_without_drivers() -> None:
    """Importing the package imports no driver."""
    code = (
        "import sys, flask_pooled_db\n"
        "print(*{'pymysql', 'mariadb', 'psycopg', 'gevent'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_p7_import_starts_no_thread() -> None:
    """Importing the package starts no thread."""
    code = "import threading, flask_pooled_db\nprint(threading.active_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


@each_module
def test_no_wall_clock(name: str, tree: ast.Module) -> None:
    """No module reads the wall clock: ages are monotonic."""
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
    assert {name for name, _ in calls} == {"housekeeping", "threads"}
    for name, call in calls:
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("daemon") == "True", f"{name} makes a thread that is no daemon"
        label = given.get("name", "").removeprefix("f")
        assert label == "THREAD_NAME" or label.startswith("'flask-pooled-db "), name
    from flask_pooled_db.housekeeping import THREAD_NAME

    assert THREAD_NAME.startswith("flask-pooled-db ")


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
