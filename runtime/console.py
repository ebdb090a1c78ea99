"""The command line's manners: one way to print, one way to fail."""

import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privacy.errors import CloisterError, ConfigError, ExitCode, InternalError

if TYPE_CHECKING:
    import typer
    from rich.console import RenderableType

    Shown = RenderableType | Sequence[RenderableType]

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
PIPE_WIDTH = 240  # a file or a pipe has no width to keep to: no table is cut for it
_TRACEBACK = "CLOISTER_TRACEBACK"
_REPLACED = "\N{REPLACEMENT CHARACTER}"


def run(app: "typer.Typer", arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code and never raises.

    A CloisterError is printed as what, why and next step on stderr, a line each, or with `--json` as one object
    {"error": {...}} on stdout. Any other exception is a bug: its class and place are named, its text is not, since it
    might quote data; CLOISTER_TRACEBACK=1 shows the whole of it.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own lines say less than our errors do
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(args=words, prog_name="cloister")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(ExitCode.OK if end.code is None else ExitCode.USAGE)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has gone: nothing is left to tell it
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lives until the process ends
        return int(ExitCode.BUG)
    except CloisterError as error:
        return _report(error, as_json="--json" in words)
    except Exception as error:  # the outermost frame: every bug ends here
        return _report(_unexpected(error), as_json="--json" in words)
    return int(ExitCode.OK)


def error_document(error: CloisterError) -> dict[str, Any]:
    """What `--json` prints for an error."""
    body = {"kind": kind_of(error), "what": error.what, "why": error.why, "next_step": error.next_step}
    return {"error": body | {"exit_code": int(error.exit_code)}}


def kind_of(error: CloisterError) -> str:
    """The name of the error's family, in lower case: `config`, `protocol`, `refused`, ..."""
    return type(error).__name__.removesuffix("Error").lower()


def emit(value: Any, *, as_json: bool, text: "Shown | None" = None) -> None:  # noqa: ANN401 - any JSON value
    """Print a command's result: `value` as one JSON object, or else `text` (by default the keys and values).

    A str is one line, whatever is in it: names, purposes and reasons are other people's (see `printable`). Several
    lines, or tables among them, are a sequence. The JSON is exact.
    """
    if as_json:
        sys.stdout.write(json.dumps(value, sort_keys=True, allow_nan=False) + "\n")
        return
    from rich.console import Console

    shown = _plain(value) if text is None else text
    parts = [shown] if isinstance(shown, str) or not isinstance(shown, Sequence) else shown
    lines = [printable(part) if isinstance(part, str) else part for part in parts]
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    console = Console(highlight=False, soft_wrap=True, width=width, emoji=False)
    console.print(*lines, sep="\n", markup=False)


def printable(text: str) -> str:
    """The text as one line that does nothing but read: each sign that does not print (a line break, the beginning of a
    terminal's command) or turns the direction of a text is shown as a replacement sign.
    """
    return text if text.isprintable() else "".join(sign if sign.isprintable() else _REPLACED for sign in text)


def require_file(path: Path) -> None:
    """The file is there. For before slow imports: a mistyped name is told at once. Raises ConfigError."""
    if not path.exists():
        raise ConfigError(str(path), "No such file or directory", "Name a file that is there.")


def refuse_existing(*paths: Path | None) -> None:
    """Each is the name of a new file. For before slow imports, and before work is done for it. Raises ConfigError."""
    for path in paths:
        if path is not None and (path.exists() or path.is_symlink()):
            raise ConfigError(f"file {path}", "is there already", "Name a new file.")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> "RenderableType":
    """A table for `emit`."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    heading = None if title is None else Text(printable(title), style="table.title")
    made = Table(*columns, title=heading, box=SIMPLE)
    for row in rows:
        made.add_row(*(Text(printable(str(cell))) for cell in row))
    return made


def bytes_text(count: int) -> str:
    """Bytes as kB or MB (powers of ten)."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _plain(value: Any) -> list[str]:  # noqa: ANN401 - any JSON value
    return [f"{key}: {item}" for key, item in value.items()] if isinstance(value, Mapping) else [str(value)]


def _report(error: CloisterError, *, as_json: bool) -> int:
    if as_json:
        sys.stdout.write(json.dumps(error_document(error), sort_keys=True) + "\n")
    else:
        what, why, step = map(_quoted, (error.what, error.why, error.next_step))
        sys.stderr.write(f"cloister: {what}\n  why:  {why}\n  next: {step}\n")
    if os.environ.get(_TRACEBACK):
        traceback.print_exception(error.__cause__ if isinstance(error, _UnexpectedError) else error)
    return int(error.exit_code)


def _quoted(text: str) -> str:
    """An error's text, which may quote others: its further lines can be told from those that we begin."""
    return "\n      | ".join(map(printable, text.rstrip("\n").split("\n")))


class _UnexpectedError(InternalError):
    """An exception that nobody foresaw."""


def _unexpected(error: Exception) -> CloisterError:
    bug = _UnexpectedError(
        "this command",
        f"met a bug: {type(error).__name__} in {place_of(error)}",
        f"Run it again with {_TRACEBACK}=1 and report what it prints, without data.",
    )
    bug.__cause__ = error
    return bug


def place_of(error: BaseException) -> str:
    """File and line where an exception was raised, without its text."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "an unknown place"
    return f"{'/'.join(Path(frames[-1].filename).parts[-2:])}:{frames[-1].lineno}"
