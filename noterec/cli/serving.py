"""The command that answers over HTTP."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from noterec.cli import output
from noterec.cli.app import Config, ImageRoot, Set, app, load


@app.command()
def serve(
    index: Annotated[Path, typer.Argument(help="index")],
    model: Annotated[
        str | None, typer.Option("--model", help="the model of the index, to encode notes that it doesn't have")
    ] = None,
    notes: Annotated[
        str | None, typer.Option("--notes", help="the dataset, for the page at / to show notes with their pictures")
    ] = None,
    pairs: Annotated[str | None, typer.Option("--pairs", help="related pairs, to show what is co-engaged")] = None,
    report: Annotated[Path | None, typer.Option("--report", help="an evaluation's folder, to show")] = None,
    image_root: ImageRoot = None,
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0 is every one")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port; 0 takes a free one", min=0, max=65535)] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file", help="file with the token that changing the index needs; else NOTEREC_TOKEN has it"
        ),
    ] = None,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Neighbours over HTTP, and a page to look at them: until SIGTERM or Ctrl-C.

    A new version of the index goes live without a restart. Without a token the index can't be changed over HTTP.

    \b
    noterec serve index --model model --notes data/mine
    NOTEREC_TOKEN=$(cat token) noterec serve index --model model --port 9000 --set max_k=500
    noterec serve index --model model --host 0.0.0.0 --token-file token --set protect=all

    \b
    curl 'http://127.0.0.1:8000/v1/similar?note_id=n000042&k=5&where=exposure<=100'
    curl http://127.0.0.1:8000/v1/similar --json '{"note": {"title": "Cold brew at home"}, "candidates": "new"}'
    """
    from noterec.config import ServeConfig
    from noterec.serving.http.server import read_token
    from noterec.serving.http.server import serve as run

    settings = load(ServeConfig, config, set_)
    token = read_token(token_file)
    served = run(
        index,
        model=model,
        notes=notes,
        pairs=pairs,
        report=report,
        image_root=image_root,
        host=host,
        port=port,
        token=token,
        config=settings,
        on_ready=_ready,
    )
    output.summary(served, as_json=False)


def _ready(url: str, service: Any) -> None:
    found = service.ready()
    model = found.model_version if found.encoder else "none: no notes can be encoded"
    output.write(f"{url}  index {found.index_version}  {found.notes:,} notes  model {model}")
    sys.stdout.flush()  # whoever started it may wait for this line
