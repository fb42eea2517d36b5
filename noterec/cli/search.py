"""Commands about neighbours: query, neighbours, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from noterec.cli import output
from noterec.cli.app import Json, Out, Seed, app

Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        help="what a neighbour must be, such as language=en,de or exposure<=100 or created_at>=2026-11-01 or category=Travel/* "
        "(that and all below it) or category!=Ads; may be repeated",
    ),
]
PerAuthor = Annotated[int | None, typer.Option("--per-author", help="at most so many notes of one author")]
Duplicates = Annotated[
    float | None,
    typer.Option("--duplicates", help="cosine from which on a note repeats a better one and is left out, such as 0.95"),
]
Diversity = Annotated[
    float, typer.Option("--diversity", help="0 to 1, weight of novelty among the neighbours; 0 is off")
]
Shard = Annotated[
    list[Path] | None,
    typer.Option("--shard", help="a further index that is searched together with it; may be repeated"),
]


@app.command()
def query(
    index: Annotated[Path, typer.Argument(help="index")],
    note_id: Annotated[str | None, typer.Option(help="a note of the index")] = None,
    title: Annotated[str | None, typer.Option(help="of a note that the index doesn't have")] = None,
    content: Annotated[str | None, typer.Option(help="its text")] = None,
    hashtag: Annotated[list[str] | None, typer.Option(help="its hashtag; may be repeated")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="its image file; may be repeated")] = None,
    vector: Annotated[
        Path | None, typer.Option(help="a file with a vector of the index's model: a JSON list of numbers")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="the model of the index, to encode an unseen note")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="neighbours")] = 10,
    candidates: Annotated[str, typer.Option(help="all, or new: only new notes may be found")] = "all",
    where: Where = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", help="id of a note that may not be found; may be repeated")
    ] = None,
    per_author: PerAuthor = None,
    duplicates: Duplicates = None,
    diversity: Diversity = 0.0,
    fuse: Annotated[bool, typer.Option("--fuse", help="rank by shared words (BM25), too")] = False,
    shard: Shard = None,
    as_json: Json = False,
) -> None:
    """The nearest notes of a note, by its id or by its content.

    \b
    noterec query index --note-id n000042 -k 5
    noterec query index --note-id n000042 --where "exposure<=100" --per-author 1 --duplicates 0.95
    noterec query index --model model --title "Cold brew at home" --content "18 hours in the fridge" --hashtag coffee --fuse
    noterec query index --model model --image photo.jpg
    """
    from noterec.index.filters import parse_where
    from noterec.serving.query import query as run

    found = run(
        _opened(index, shard),
        note_id=note_id,
        title=title,
        content=content,
        hashtags=hashtag or (),
        images=[_bytes(file) for file in image or ()],
        vector=None if vector is None else _numbers(vector),
        model=model,
        k=k,
        candidates=candidates,
        where=parse_where(where or ()) or None,
        exclude=exclude or (),
        per_author=per_author,
        duplicates=duplicates,
        diversity=diversity,
        fuse=fuse,
    )
    output.table(found.columns, found.rows(), as_json=as_json)


def _opened(index: Path, shards: list[Path] | None) -> Any:
    """An index, with the further ones that are searched together with it."""
    from noterec.index.merged import MergedIndex

    return MergedIndex.open([index, *shards]) if shards else index


def _bytes(file: Path) -> bytes:
    from noterec.errors import InputError

    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"--image {file}: can't be read ({error.strerror}); expected a picture file") from error


def _numbers(file: Path) -> Any:
    from noterec import storage
    from noterec.errors import InputError

    numbers = storage.read_json(file)
    if not isinstance(numbers, list):
        raise InputError(f"--vector {file}: holds a JSON {type(numbers).__name__}; expected a list of numbers")
    return numbers


@app.command()
def neighbours(
    index: Annotated[Path, typer.Argument(help="index")],
    out: Out,
    queries: Annotated[str, typer.Option(help="all, new, warm, or a table of ids or vectors")] = "all",
    candidates: Annotated[str, typer.Option(help="all or new")] = "all",
    k: Annotated[int, typer.Option("-k", help="neighbours per query")] = 100,
    where: Where = None,
    exclude: Annotated[
        Path | None, typer.Option("--exclude", help="table of the note_ids that may not be found")
    ] = None,
    per_author: PerAuthor = None,
    duplicates: Duplicates = None,
    diversity: Diversity = 0.0,
    shard: Shard = None,
    as_json: Json = False,
) -> None:
    """A table of neighbours: new -> all describes new notes, warm -> new delivers them.

    \b
    noterec neighbours index --queries new --candidates all --out new-to-all.parquet
    noterec neighbours index --queries warm --candidates new --out warm-to-new.parquet -k 20 --per-author 2
    """
    from noterec.index.filters import parse_where
    from noterec.index.neighbours import neighbours as run

    found = run(
        _opened(index, shard),
        out=out,
        queries=queries,
        candidates=candidates,  # type: ignore[arg-type]
        k=k,
        where=parse_where(where or ()) or None,
        exclude=exclude or (),
        per_author=per_author,
        duplicates=duplicates,
        diversity=diversity,
    )
    output.summary(found, as_json=as_json)


@app.command()
def export(
    index: Annotated[Path, typer.Argument(help="index")],
    uri: Annotated[str, typer.Option("--uri", help="a server (http://localhost:19530), or a file ending in .db")],
    to: Annotated[str, typer.Option("--to", help="milvus")] = "milvus",
    collection: Annotated[str, typer.Option("--collection", help="its name")] = "noterec",
    token: Annotated[
        str | None, typer.Option("--token", help="user:password or API key", envvar="NOTEREC_MILVUS_TOKEN")
    ] = None,
    index_type: Annotated[str, typer.Option(help="FLAT (exact), HNSW, IVF_FLAT or AUTOINDEX")] = "FLAT",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a collection of this name")] = False,
    seed: Seed = None,
    shard: Shard = None,
    as_json: Json = False,
) -> None:
    """Copy an index into a vector database, and check that it answers alike.

    \b
    noterec export index --to milvus --uri notes.db
    noterec export index --to milvus --uri http://localhost:19530 --collection notes --overwrite
    """
    from noterec.index.export import export as run

    found = run(
        _opened(index, shard),
        uri=uri,
        to=to,  # type: ignore[arg-type]
        collection=collection,
        token=token,
        index_type=index_type,  # type: ignore[arg-type]
        overwrite=overwrite,
        seed=seed or 0,
    )
    output.summary(found, as_json=as_json)
