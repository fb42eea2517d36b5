"""Commands about the index itself: build it, add and remove notes, go back, look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from noterec.cli import output
from noterec.cli.app import Config, DefaultCommand, Json, Out, Seed, Set, app, load


class BuildByDefault(DefaultCommand):
    """`noterec index EMBEDDINGS --out INDEX` builds: what isn't the name of a command is an argument of `build`."""

    default = "build"
    argument = "Embeddings"


index = typer.Typer(
    name="index",
    cls=BuildByDefault,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="""Build an index, change it, go back to an earlier bundle. What isn't one of the commands below is built.

    \b
    noterec index embeddings --notes data/mine --out index
    noterec index build --help
    """,
)
app.add_typer(index)

IndexPath = Annotated[Path, typer.Argument(help="the index's folder", metavar="INDEX")]


@index.command()
def build(
    embeddings: Annotated[str, typer.Argument(help="embeddings table; may lie in an object store")],
    out: Out,
    notes: Annotated[str | None, typer.Option("--notes", help="dataset, for attributes to read and filter")] = None,
    new: Annotated[str | None, typer.Option("--new", help="table of the note_ids that are new")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="auto, flat, ivf, ivf-sq8, ivf-pq or hnsw")] = None,
    recall_target: Annotated[
        float | None,
        typer.Option("--recall-target", help="share of the exact neighbours to be found, else not published"),
    ] = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Build a FAISS index bundle and make it the live one, unless its recall is below the target.

    \b
    noterec index embeddings --notes data/mine --out index
    noterec index embeddings --notes data/mine --out index --kind ivf-pq --recall-target 0.9 --set memory_gib=2
    """
    from noterec.config import IndexConfig
    from noterec.index.build import build_index

    settings = load(IndexConfig, config, set_, kind=kind, recall_target=recall_target, seed=seed)
    say = output.note if not as_json else (lambda text: None)
    output.summary(build_index(embeddings, notes=notes, new=new, out=out, config=settings, say=say), as_json=as_json)


@index.command()
def add(
    path: IndexPath,
    embeddings: Annotated[str, typer.Argument(help="embeddings table of the notes, of the index's model")],
    notes: Annotated[str | None, typer.Option("--notes", help="dataset with the notes, for their attributes")] = None,
    as_json: Json = False,
) -> None:
    """Add fresh notes, or replace what the index holds of them, between two builds. A running server takes them up by itself.

    \b
    noterec embed data/fresh --model model --out fresh --set source=delta
    noterec index add index fresh --notes data/fresh
    """
    from noterec.index.manage import add_embeddings

    output.summary(add_embeddings(path, embeddings, notes=notes), as_json=as_json)


@index.command()
def remove(
    path: IndexPath,
    note_id: Annotated[list[str] | None, typer.Argument(help="ids of the notes")] = None,
    table: Annotated[str | None, typer.Option("--ids", help="table with a note_id column instead")] = None,
    as_json: Json = False,
) -> None:
    """Take notes out of the index at once, and keep them out of later builds until they are added again.

    \b
    noterec index remove index n000042 n000043
    noterec index remove index --ids takedowns.parquet
    """
    from noterec.index.manage import remove_ids

    output.summary(remove_ids(path, note_id or (), table=table), as_json=as_json)


@index.command()
def rollback(
    path: IndexPath,
    to: Annotated[str | None, typer.Option("--to", help="bundle's name; default: the one before the live one")] = None,
    as_json: Json = False,
) -> None:
    """Make an earlier bundle the live one. What was added and removed since counts over it too.

    \b
    noterec index rollback index
    noterec index rollback index --to bundle-000007
    """
    from noterec.index.manage import roll_back

    output.summary(roll_back(path, to=to), as_json=as_json)


@index.command()
def status(path: IndexPath, as_json: Json = False) -> None:
    """The bundles of an index, which one is live, and what was changed since it was built.

    \b
    noterec index status index
    """
    from noterec.index.manage import index_status

    found = index_status(path)
    if as_json:
        output.summary(found, as_json=True)
        return
    columns = ["live", "bundle", "kind", "notes", "recall", "query_ms", "created", "model_version"]
    output.table(columns, [[getattr(row, column) for column in columns] for row in found.bundles], as_json=False)
    output.write()
    output.write(f"since: {found.added:,} notes added, {found.removed:,} removed for good, {found.notes:,} to be found")
