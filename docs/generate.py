"""Writes the parts of the documents that the code itself knows: commands.md and the table of configuration.md.

python docs/generate.py           writes them
python docs/generate.py --check   exit code 1 where a page is not what would be written
"""

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel, SecretStr

from ravencore.config import Settings
from ravenctl.cli import app
from ravenctl.shell import EXIT_CODES

DOCS = Path(__file__).parent
TABLE = "| setting | default | meaning |\n|---|---|---|\n"


def pages() -> dict[Path, str]:
    """Every generated page and what it has to say."""
    configuration = DOCS / "configuration.md"
    introduction = configuration.read_text().partition(TABLE)[0]
    return {
        DOCS / "commands.md": commands_page(),
        configuration: introduction + TABLE + "\n".join(settings_rows()) + "\n",
    }


def commands_page() -> str:
    """The command reference, from the commands' own help."""
    head = f"# Commands\n\nMade by `make docs` from the commands' own `--help`. {EXIT_CODES}\n"
    return head + "".join(command_section(path, command) for path, command in commands(typer.main.get_command(app)))


def commands(group: Any, path: str = "ravenctl") -> Iterator[tuple[str, Any]]:
    """Every command with its whole name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
        elif not command.hidden:
            yield f"{path} {name}", command


def command_section(path: str, command: Any) -> str:
    """A command's section: its help and a table of its arguments and options."""
    help_text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    rows = [row for parameter in command.params for row in parameter_row(parameter)]
    table = "\n| option | meaning | default |\n|---|---|---|\n" + "\n".join(rows) + "\n" if rows else ""
    return f"\n## {path}\n\n{help_text}\n{table}"


def parameter_row(parameter: Any) -> Iterator[str]:
    """An option or argument as a row of a table; none for --help."""
    if getattr(parameter, "hidden", False) or "--help" in parameter.opts:
        return
    names = parameter.opts if parameter.param_type_name == "option" else [parameter.name.upper()]
    metavar = (
        (parameter.metavar or "").replace("|", "\\|")
        if parameter.param_type_name == "option" and parameter.metavar
        else ""
    )
    spelled = ", ".join(names) + (f" {metavar}" if metavar else "")
    default = parameter.default
    shown_default = f"`{default}`" if isinstance(default, str | int | float) and not isinstance(default, bool) else ""
    meaning = (getattr(parameter, "help", None) or "").replace("|", "\\|")
    yield f"| `{spelled}` | {meaning} | {'required' if parameter.required else shown_default} |"


def settings_rows(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    """Every setting as a row: path, default, meaning."""
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from settings_rows(info.annotation, f"{prefix}{name}.")
        else:
            default = shown(info.get_default(call_default_factory=True))
            yield f"| `{prefix}{name}` | {default} | {info.description} |"


def shown(default: Any) -> str:
    """A default as JSON; secrets are not shown."""
    if isinstance(default, SecretStr):
        return "(secret)"
    if isinstance(default, dict):
        default = {
            name: value.model_dump() if isinstance(value, BaseModel) else value for name, value in default.items()
        }
    return f"`{json.dumps(default)}`"


def main() -> int:
    """Write the pages, or check them; the exit code."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        sys.stderr.write("".join(f"{path.name} is not what the code says: run `make docs`\n" for path in stale))
        return 1 if stale else 0
    for path in stale:
        path.write_text(pages()[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
