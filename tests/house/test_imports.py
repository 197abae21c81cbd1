"""The house rules: rooms meet only in Kafka, pure files stay pure, and nothing imports in circles."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "schemas": set(),
    "ravencore": {"schemas"},
    "producers": {"ravencore", "schemas"},
    "processors": {"ravencore", "schemas"},
    "sinks": {"ravencore", "schemas"},
    "simulator": {"ravencore", "schemas"},
    "ravenctl": {"schemas", "ravencore", "producers", "processors", "sinks", "simulator"},
}
IMPURE = {
    *{"asyncio", "socket", "selectors", "threading", "multiprocessing", "subprocess", "signal", "ssl"},
    *{"time", "random", "secrets", "os", "environ", "tempfile", "uuid"},
    *{"aiohttp", "websockets", "confluent_kafka", "aiokafka", "faust", "mode", "psycopg", "influxdb_client", "redis"},
    *{"requests", "prometheus_client", "rich", "typer"},
}
"""Packages that do I/O, read clocks, draw chances or look at the environment."""
IMPURE_MODULES = {"ravencore.kafka", "ravencore.status", "ravencore.service", "urllib.request"}
SHELLS = {
    "producers": {"collector/", "__main__.py"},
    "processors": {"engine.py", "transactions.py", "faust_transport.py", "worker.py", "__main__.py"},
    "sinks": {
        *{"drain.py", "__main__.py", "migrations.py"},
        *{"stores/cache.py", "stores/influx.py", "stores/influx_setup.py", "stores/lake.py", "stores/timescale.py"},
        *{"stores/lake_files.py", "stores/timescale_dimensions.py", "stores/timescale_policies.py"},
    },
    "simulator": {"server/", "__main__.py"},
}
"""The files and folders that do I/O; every other file of these rooms is pure. A store's file holds its client too."""
MAY_SEED = {"simulator"}
"""Rooms whose pure files may import `random`, for a Random with a given seed."""


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Dotted names a file imports, at its top or inside its functions."""
    package = ".".join(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield f"{package}.{node.module or ''}"
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_the_rooms_it_may(room: str) -> None:
    assert modules(room), f"{room}/ is empty"
    for path in modules(room):
        rooms = {name.partition(".")[0] for name in imports(path)} & set(ALLOWED) - {room}
        assert rooms <= ALLOWED[room], f"{path.relative_to(ROOT)} imports {sorted(rooms - ALLOWED[room])}"


def is_shell(room: str, path: Path) -> bool:
    name = str(path.relative_to(ROOT / room))
    return any(name == shell or (shell.endswith("/") and name.startswith(shell)) for shell in SHELLS[room])


@pytest.mark.parametrize("room", SHELLS)
def test_files_outside_the_shell_are_pure(room: str) -> None:
    for path in modules(room):
        if is_shell(room, path):
            continue
        found = {name.partition(".")[0] for name in imports(path)} & IMPURE
        found -= {"random"} if room in MAY_SEED else set()
        found |= {
            name for name in imports(path) if name in {"ravencore.kafka", "ravencore.status", "ravencore.service"}
        }
        assert not found, f"{path.relative_to(ROOT)} imports {sorted(found)}"


@pytest.mark.parametrize("room", SHELLS)
def test_pure_files_use_no_global_randomness_or_clock(room: str) -> None:
    """`random.Random(seed)` is fine; `random.random()`, `datetime.now()` are not."""
    for path in modules(room):
        if is_shell(room, path):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                used = f"{node.value.id}.{node.attr}"
                assert used not in {"datetime.now", "datetime.utcnow", "date.today"}, f"{path}:{node.lineno} {used}"
                assert node.value.id != "random" or node.attr == "Random", f"{path}:{node.lineno} {used}"


def test_nothing_imports_in_circles() -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for room in ALLOWED for path in modules(room)}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    graph = {
        name: {found for found in imports(path) if found in names and found != name} for name, path in names.items()
    }
    TopologicalSorter(graph).prepare()


def test_nothing_is_named_raven() -> None:
    """Faust itself tries `import raven`, an old Sentry client: our package would answer."""
    assert not (ROOT / "raven").exists()
    assert not (ROOT / "raven.py").exists()


def test_the_shared_room_stays_small() -> None:
    """`records.py` is not counted: it repeats the schemas, and grows with them."""
    paths = [path for path in modules("ravencore") if path.name != "records.py"]
    lines = sum(1 for path in paths for line in path.read_text().splitlines() if line.strip())
    assert lines < 1800, f"ravencore has {lines} lines that are not blank"
