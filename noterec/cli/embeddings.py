"""Commands about a table that `embed` or `generate` wrote: how it is, a smaller one in its place, its repair."""

from __future__ import annotations

from typing import Annotated

import typer

from noterec.cli import output
from noterec.cli.app import Json, app

embeddings = typer.Typer(
    name="embeddings",
    help="""How a table of `embed` or `generate` is; drop what no longer counts in it; strike out what is damaged.

    \b
    noterec embeddings status embeddings
    """,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
app.add_typer(embeddings)

TablePath = Annotated[
    str, typer.Argument(metavar="TABLE", help="what `embed` or `generate` wrote; a folder, or its URL")
]


@embeddings.command()
def status(
    table: TablePath,
    deep: Annotated[bool, typer.Option("--deep", help="compare every file's checksum, too")] = False,
    as_json: Json = False,
) -> None:
    """Rows, notes, what compacting would free, what made it, and whether anything is damaged.

    \b
    noterec embeddings status embeddings
    noterec embeddings status s3://vectors/v7 --deep --json
    """
    from noterec.embedding.table import embeddings_status as run

    output.summary(run(table, deep=deep), as_json=as_json)


@embeddings.command()
def compact(
    table: TablePath,
    shard_rows: Annotated[int, typer.Option(help="rows of a new shard")] = 10_000,
    as_json: Json = False,
) -> None:
    """Drop superseded rows, withdrawn notes and their tombstones; killed on the way, it has changed nothing.

    \b
    noterec embeddings compact embeddings
    """
    from noterec.embedding.table import compact_embeddings as run

    output.summary(run(table, shard_rows=shard_rows), as_json=as_json)


@embeddings.command()
def repair(table: TablePath, as_json: Json = False) -> None:
    """Strike out shards that are missing or damaged: the next run over a snapshot makes their notes again.

    Until that run the table isn't complete, and a delta doesn't mend it. A lost tombstone lets an older row of its note come back
    meanwhile.

    \b
    noterec embeddings repair embeddings
    """
    from noterec.embedding.table import repair_embeddings as run

    output.summary(run(table), as_json=as_json)
