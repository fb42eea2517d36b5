"""Commands about neighbours: index, query, neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from noterec.cli import output
from noterec.cli.app import Config, Json, Out, Set, app, load


@app.command()
def index(
    embeddings: Annotated[Path, typer.Argument(help="embeddings table")],
    out: Out,
    notes: Annotated[Path | None, typer.Option("--notes", help="dataset, for attributes to read and filter")] = None,
    new: Annotated[Path | None, typer.Option("--new", help="table of the note_ids that are new")] = None,
    config: Config = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Build a FAISS index bundle and make it the live one.

    \b
    noterec index embeddings --notes data/mine --out index
    """
    from noterec.config import IndexConfig
    from noterec.index.build import build_index

    settings = load(IndexConfig, config, set_)
    output.summary(build_index(embeddings, notes=notes, new=new, out=out, config=settings), as_json=as_json)


@app.command()
def query(
    index: Annotated[Path, typer.Argument(help="index")],
    note_id: Annotated[str | None, typer.Option(help="a note of the index")] = None,
    title: Annotated[str | None, typer.Option(help="of a note that the index doesn't have")] = None,
    content: Annotated[str | None, typer.Option(help="its text")] = None,
    hashtag: Annotated[list[str] | None, typer.Option(help="its hashtag; may be repeated")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="its image file; may be repeated")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="the model of the index, to encode an unseen note")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="neighbours")] = 10,
    candidates: Annotated[str, typer.Option(help="all, or new: only new notes may be found")] = "all",
    where: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE that a neighbour must have; may be repeated")
    ] = None,
    as_json: Json = False,
) -> None:
    """The nearest notes of a note, by its id or by its content.

    \b
    noterec query index --note-id n000042 -k 5
    noterec query index --model model --title "Cold brew at home" --content "18 hours in the fridge" --hashtag coffee
    noterec query index --model model --image photo.jpg
    """
    from noterec.errors import InputError
    from noterec.serving.query import query as run

    filters: dict[str, Any] = {}
    for entry in where or ():
        column, sign, value = entry.partition("=")
        if not sign:
            raise InputError(f"--where {entry}: expected COLUMN=VALUE")
        filters[column] = value
    found = run(
        index,
        note_id=note_id,
        title=title,
        content=content,
        hashtags=hashtag or (),
        images=[_bytes(file) for file in image or ()],
        model=model,
        k=k,
        candidates=candidates,
        where=filters or None,
    )
    output.table(found.columns, found.rows(), as_json=as_json)


def _bytes(file: Path) -> bytes:
    from noterec.errors import InputError

    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"--image {file}: can't be read ({error.strerror}); expected a picture file") from error


@app.command()
def neighbours(
    index: Annotated[Path, typer.Argument(help="index")],
    out: Out,
    queries: Annotated[str, typer.Option(help="all, new, warm, or a table of ids or vectors")] = "all",
    candidates: Annotated[str, typer.Option(help="all or new")] = "all",
    k: Annotated[int, typer.Option("-k", help="neighbours per query")] = 100,
    as_json: Json = False,
) -> None:
    """A table of neighbours: new -> all describes new notes, warm -> new delivers them.

    \b
    noterec neighbours index --queries new --candidates all --out new-to-all.parquet
    noterec neighbours index --queries warm --candidates new --out warm-to-new.parquet -k 20
    """
    from noterec.index.neighbours import neighbours as run

    found = run(index, out=out, queries=queries, candidates=candidates, k=k)  # type: ignore[arg-type]
    output.summary(found, as_json=as_json)
