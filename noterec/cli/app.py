"""The command-line application, and what its commands share.

Heavy libraries load inside the commands, so that `noterec --help` answers at once.
"""

from __future__ import annotations

import difflib
import logging
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

app = typer.Typer(
    name="noterec",
    help="From notes to neighbours: embeddings of notes trained on co-engagement, for items that nobody has engaged with yet.",
    epilog="Start with `noterec demo`. The road: sample or import, validate, split, pairs, train, embed, generate, modalities, "
    "index, query, neighbours, serve, evaluate; and all of it every night, nightly.",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)

Config = Annotated[
    Path | None,
    typer.Option("--config", help="YAML file with settings of this command; `noterec settings COMMAND` shows them all"),
]
Set = Annotated[list[str] | None, typer.Option("--set", help="one setting, KEY=VALUE; may be repeated")]
Seed = Annotated[int | None, typer.Option("--seed", help="seed of everything random")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
# Text, not a Path, which would swallow a slash of s3://; what takes no URLs refuses them itself.
Out = Annotated[str, typer.Option("--out", metavar="<path>", help="where the result goes")]
ImageRoot = Annotated[
    Path | None,
    typer.Option("--image-root", help="the only folder below which pictures that the notes give by path are read"),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help="root of all caches; with it, states of a frozen backbone are read and kept. Image features always are, without it "
        "below $NOTEREC_CACHE or ~/.cache/noterec, up to images.cache_gib (0: none)",
    ),
]
DatasetPath = Annotated[
    str,
    typer.Argument(
        help="a folder with notes/*.parquet and engagement/*.parquet, local or in an object store (s3://, gs://)",
    ),
]


class DefaultCommand(TyperGroup):
    """A group whose first argument is a command of it, or else one of its default command's."""

    default = ""  # that command
    argument = ""  # what its argument is, for a message

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            near = difflib.get_close_matches(args[0], self.commands, n=1, cutoff=0.7)
            if near and not Path(args[0]).exists():
                ctx.fail(
                    f"no command {args[0]!r}; did you mean {near[0]!r}? ({self.argument} of this name would be ./{args[0]})"
                )
            args.insert(0, self.default)
        return super().parse_args(ctx, args)


@app.callback()
def _root(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="log every stage's counts, seconds and memory")
    ] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s" if verbose else "%(levelname)s: %(message)s",
    )
    if verbose:
        logging.getLogger("httpx").setLevel(logging.WARNING)


def load(kind: Any, config: Path | None, overrides: list[str] | None, /, **given: Any) -> Any:
    from noterec.config import load

    return load(kind, config, tuple(overrides or ()), **given)
