"""The API in process: what it answers, how it refuses, and that answers follow the index."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from starlette.testclient import TestClient

from noterec.errors import ArtefactError
from noterec.index import changes
from noterec.index.build import build_index
from noterec.index.search import Index
from noterec.model.encoder import NoteEncoder
from noterec.notes.note import Note
from noterec.serving.http.app import create_app
from noterec.serving.query import query
from noterec.serving.service import Service
from tests.index.conftest import embeddings_table, unit, write_shards
from tests.model.test_seeing import seeing
from tests.serving.conftest import AUTHORISED
from tests.serving.test_fitness import bomb, picture, text64

ODD_IDS = ["a/b", "a//b/", "..", "über 100 %", "?x=1#y", "n\x00l", "\u202eevil", "🙂", "a" * 512, "'; --", "+"]


def similar(client: TestClient, **body: Any) -> Any:
    return client.post("/v1/similar", json=body)


def ids(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    return [item["note_id"] for item in response.json()["neighbours"]]


def code(response: Any) -> tuple[int, str]:
    record = response.json()
    assert record.keys() == {"error"} and record["error"].keys() == {"code", "message"}
    return response.status_code, record["error"]["code"]


def add(client: TestClient, note_id: str, **fields: Any) -> Any:
    return client.post("/v1/notes", json={"note_id": note_id, **fields}, headers=AUTHORISED)


@pytest.fixture(scope="module")
def asked(built: Path, encoder: NoteEncoder) -> Iterator[TestClient]:
    """A service that is only asked."""
    service = Service(built, encoder=encoder)
    with TestClient(create_app(service), raise_server_exceptions=False) as started:
        yield started


def test_by_id_the_answer_is_the_index_s(asked: TestClient, built: Path) -> None:
    opened = Index.open(built)
    note_id = opened.ids[17]
    response = asked.get("/v1/similar", params={"note_id": note_id, "k": 5})
    expected = opened.similar(note_id, 5).to_pylist()
    record = response.json()
    assert ids(response) == [row["note_id"] for row in expected]
    assert [item["rank"] for item in record["neighbours"]] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose([n["score"] for n in record["neighbours"]], [r["score"] for r in expected], rtol=1e-6)
    titles = dict(opened.attributes.select("note_id", "title").iter_rows())
    assert [item["title"] for item in record["neighbours"]] == [titles[i] for i in ids(response)]
    assert record["index_version"] == opened.version and record["model_version"] == opened.model_version
    assert ids(similar(asked, note_id=note_id, k=5)) == ids(response)


def test_by_vector_only_the_direction_matters(asked: TestClient, built: Path) -> None:
    opened = Index.open(built)
    vector = opened.vector(opened.ids[3]).astype(float)
    assert ids(similar(asked, vector=vector.tolist(), k=3))[0] == opened.ids[3]
    assert ids(similar(asked, vector=(vector * 1e200).tolist(), k=3)) == ids(
        similar(asked, vector=vector.tolist(), k=3)
    )


def test_a_note_that_nobody_has_seen_finds_itself(asked: TestClient, platform: Path) -> None:
    from noterec.notes.dataset import Dataset

    row = Dataset(platform / "data").notes(["title", "content", "hashtags"]).to_dicts()[5]
    content = {name: row[name] for name in ("title", "content", "hashtags")}
    first = similar(asked, note=content, k=1).json()["neighbours"][0]
    assert first["note_id"] == row["note_id"] and first["score"] == pytest.approx(1, abs=1e-5)


def test_embedding_is_the_encoder_s(asked: TestClient, encoder: NoteEncoder) -> None:
    record = asked.post("/v1/embed", json={"notes": [{"title": "Tea"}, {"hashtags": ["coffee"]}]}).json()
    expected = encoder.encode([Note(title="Tea"), Note(hashtags=["coffee"])])
    np.testing.assert_allclose(record["vectors"], expected, atol=2e-5)
    assert (record["dimension"], record["model_version"]) == (encoder.dimension, encoder.model_version)


def test_options_reach_the_search(asked: TestClient, built: Path) -> None:
    opened = Index.open(built)
    note_id = opened.ids[17]
    rows = {row["note_id"]: row for row in opened.attributes.to_dicts()}
    get = {"note_id": note_id, "k": 50}
    few = ids(asked.get("/v1/similar", params={**get, "where": ["exposure<=100", "language=en"]}))
    assert few and all(rows[i]["exposure"] <= 100 and rows[i]["language"] == "en" for i in few)
    assert few == ids(similar(asked, **get, where={"exposure": {"max": 100}, "language": "en"}))
    assert few == ids(similar(asked, **get, where=["exposure<=100", "language=en"]))
    new = ids(asked.get("/v1/similar", params={**get, "candidates": "new"}))
    assert new and all(rows[i]["new"] for i in new)
    authors = [rows[i]["author_id"] for i in ids(asked.get("/v1/similar", params={**get, "per_author": 1}))]
    assert len(set(authors)) == len(authors)
    best = ids(asked.get("/v1/similar", params=get))
    rest = ids(asked.get("/v1/similar", params={**get, "exclude": best[:2], "k": 48}))
    assert rest == best[2:]
    assert ids(similar(asked, **get, diversity=0.7)) != best
    fused = query(opened, note_id=note_id, k=50, fuse=True)["note_id"].to_list()
    assert ids(similar(asked, **get, fuse=True)) == fused != best
    vectors = opened.vectors([opened.row(i) for i in ids(similar(asked, **get, duplicates=0.9))])
    assert np.triu(vectors @ vectors.T, 1).max() < 0.9


def test_more_than_there_are_gives_all_and_nothing_left_gives_none(asked: TestClient, built: Path) -> None:
    opened = Index.open(built)
    assert len(ids(asked.get("/v1/similar", params={"note_id": opened.ids[0], "k": 200}))) == 200
    none = asked.get("/v1/similar", params={"note_id": opened.ids[0], "where": "exposure<0"})
    assert ids(none) == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"note_id": "nobody"}, (404, "unknown_note")),
        ({}, (422, "invalid")),
        ({"note_id": "a", "vector": [1]}, (422, "invalid")),
        ({"note_id": "n000001", "k": 0}, (422, "invalid")),
        ({"note_id": "n000001", "k": 201}, (422, "invalid")),
        ({"note_id": "n000001", "limit": 3}, (422, "invalid")),
        ({"note_id": "n000001", "where": {"nothing": 1}}, (422, "invalid")),
        ({"note_id": "n000001", "where": ["exposure"]}, (422, "invalid")),
        ({"note_id": "n000001", "where": {"exposure": 10**40}}, (422, "invalid")),
        ({"note_id": "n000001", "diversity": 2}, (422, "invalid")),
        ({"note_id": "n000001", "duplicates": 0}, (422, "invalid")),
        ({"vector": [1.0, 2.0]}, (422, "invalid")),
        ({"vector": [0.0] * 32}, (422, "invalid")),
        ({"vector": [1.0] * 32, "fuse": True}, (422, "invalid")),
        ({"note": {"title": " "}}, (422, "nothing_to_read")),
        ({"note": {"title": "a", "images": [text64(picture())]}}, (422, "no_sight")),
        ({"note": {"title": "a", "path": "/etc/passwd"}}, (422, "invalid")),
    ],
)
def test_what_is_refused(asked: TestClient, built: Path, body: Any, expected: tuple[int, str]) -> None:
    response = similar(asked, **body)
    assert code(response) == expected
    assert str(built) not in response.text and "Traceback" not in response.text


def test_a_near_id_is_named(asked: TestClient) -> None:
    assert "did you mean" in asked.get("/v1/similar", params={"note_id": "n00001"}).json()["error"]["message"]


@pytest.mark.parametrize(
    "text", ["{", "[1", '{"vector": [NaN]}', "\xff", "[" * 100_000, '{"k": ' + "9" * 5000 + "}", "null"]
)
def test_what_is_no_json_is_refused(asked: TestClient, text: str) -> None:
    headers = {"content-type": "application/json"}
    response = asked.post("/v1/similar", content=text.encode("latin-1"), headers=headers)
    assert code(response)[0] in (400, 422)


def test_deep_conditions_are_refused(asked: TestClient) -> None:
    for depth in (20, 200, 400):
        where: Any = 1
        for _ in range(depth):
            where = {"not": where}
        assert code(similar(asked, note_id="n000001", where={"exposure": where})) == (422, "invalid")


@pytest.mark.parametrize(
    "note",
    [
        {"title": "<s></s>[INST]<|endoftext|><|im_start|>system"},
        {"content": "🙂" * 250_000},
        {"title": "\u202e\u2066evil\u2069", "hashtags": ["\u200f"] * 900},
        {"title": "a\x00b"},
        {"title": "\ufeff\ufffe\uffff"},
        {"title": "{prompt} %s {{0}}"},
        {"content": "a" * 1_900_000},
        {"title": "T", "content": "\n" * 100_000},
    ],
)
def test_hostile_notes_are_encoded(asked: TestClient, note: Any) -> None:
    response = asked.post("/v1/embed", json={"notes": [note]})
    assert response.status_code == 200, response.text
    assert np.linalg.norm(response.json()["vectors"][0]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "body", [r'{"note": {"title": "\ud800"}}', r'{"note_id": "\udfff"}', r'{"note": {"title": "a"}, "\ud800": 1}']
)
def test_half_characters_are_refused(asked: TestClient, body: str) -> None:
    response = asked.post("/v1/similar", content=body, headers={"content-type": "application/json"})
    assert code(response) == (422, "invalid")


def test_a_note_too_many_is_refused(asked: TestClient) -> None:
    assert code(asked.post("/v1/embed", json={"notes": [{"title": "a"}] * 65})) == (422, "invalid")


def test_notes_say_what_the_index_keeps(asked: TestClient, built: Path) -> None:
    row = Index.open(built).attributes.row(4, named=True)
    record = asked.get(f"/v1/notes/{row['note_id']}").json()
    assert record["attributes"]["exposure"] == row["exposure"]
    assert record["attributes"]["created_at"] == row["created_at"].isoformat()
    assert "note_id" not in record["attributes"]
    assert code(asked.get("/v1/notes/nobody")) == (404, "unknown_note")
    assert code(asked.get("/v1/notes/")) == (422, "invalid")


def test_paths_and_methods_that_are_not_there(asked: TestClient) -> None:
    assert code(asked.get("/v1/other")) == (404, "not_found")
    response = asked.put("/v1/similar")
    assert code(response) == (405, "method_not_allowed")
    assert response.headers["allow"] == "GET, HEAD, POST"
    assert asked.patch("/v1/notes/a").headers["allow"] == "DELETE, GET, HEAD"
    for path in ("/healthz", "/", "/v1/notes/n000001"):
        head = asked.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == asked.get(path).headers["content-type"]


def test_a_kept_answer_is_given_again_until_the_index_changes(client: TestClient) -> None:
    first = client.get("/v1/similar", params={"note_id": "n000001", "k": 3})
    again = similar(client, note_id="n000001", k=3)
    assert again.json() == first.json()
    nearest = ids(first)[0]
    text = client.get("/metrics").text
    assert 'noterec_cache_lookups_total{result="hit"} 1.0' in text and "noterec_cache_entries 1.0" in text
    assert client.delete(f"/v1/notes/{nearest}", headers=AUTHORISED).json()["change"] == "removed"
    assert nearest not in ids(client.get("/v1/similar", params={"note_id": "n000001", "k": 3}))


@pytest.mark.parametrize("note_id", ODD_IDS)
def test_odd_ids_come_and_go(client: TestClient, note_id: str) -> None:
    assert add(client, note_id, title="Cold brew at home").json()["change"] == "added"
    path = f"/v1/notes/{quote(note_id, safe='').replace('.', '%2E')}"
    if note_id != "..":  # a client takes this one out of a path itself
        assert client.get(path).json()["note_id"] == note_id
    assert ids(client.get("/v1/similar", params={"note_id": note_id, "k": 2}))
    assert ids(similar(client, note={"title": "Cold brew at home"}, k=1)) == [note_id]
    if note_id != "..":
        assert client.delete(path, headers=AUTHORISED).json()["change"] == "removed"
        assert code(client.get(path)) == (404, "unknown_note")


def test_an_added_note_is_there_at_once_and_after_a_restart(client: TestClient, index: Path) -> None:
    attributes = {"category": "Food/Coffee", "exposure": 0, "created_at": "2026-11-22T10:00:00+01:00"}
    before = client.get("/readyz").json()
    assert add(client, "fresh", title="Cold brew", attributes=attributes).json()["change"] == "added"
    assert client.get("/readyz").json()["notes"] == before["notes"] + 1
    record = client.get("/v1/notes/fresh").json()
    assert record["attributes"]["created_at"] == "2026-11-22T09:00:00+00:00"
    assert (record["attributes"]["category"], record["attributes"]["new"]) == ("Food/Coffee", True)
    assert record["index_version"] != before["index_version"]
    assert add(client, "fresh", title="Hot brew").json()["change"] == "replaced"
    assert Index.open(index).attributes.row(Index.open(index).row("fresh"), named=True)["title"] == "Hot brew"
    assert client.get("/readyz").json()["notes"] == before["notes"] + 1


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({"categry": "a"}, "did you mean 'category'"),
        ({"title": "a"}, "field of the note itself"),
        ({"exposure": "many"}, "exposure: is Int64"),
        ({"exposure": True}, "exposure: is Int64"),
        ({"exposure": 1.5}, "exposure: is Int64"),
        ({"created_at": "yesterday"}, "ISO 8601"),
        ({"created_at": 5}, "ISO 8601"),
        ({"created_at": "9999-12-31T23:59:59-12:00"}, "ISO 8601"),
        ({"category": 5}, "category: is String"),
        ({"new": "yes"}, "new: is Boolean"),
    ],
)
def test_attributes_that_do_not_fit_are_named(client: TestClient, attributes: Any, told: str) -> None:
    response = add(client, "fresh", title="a", attributes=attributes)
    assert code(response) == (422, "invalid") and told in response.json()["error"]["message"]


def test_changes_need_the_token(client: TestClient, index: Path, open_service: Callable[..., Service]) -> None:
    assert code(client.post("/v1/notes", json={"note_id": "a", "title": "a"})) == (401, "unauthorized")
    assert code(client.delete("/v1/notes/n000001")) == (401, "unauthorized")
    for method, path in (("POST", "/v1/notes%0A"), ("DELETE", "/v1/notes/n000001%0A"), ("GET", "/v1/notes/n000001%0A")):
        assert code(client.request(method, path, json={"note_id": "a", "title": "a"})) == (400, "bad_request")
    assert client.get("/v1/notes/a").status_code == 404
    with TestClient(create_app(open_service(index, token=None))) as without:
        assert code(add(without, "a", title="a")) == (403, "forbidden")
    assert client.delete("/v1/notes/nobody", headers=AUTHORISED).json()["change"] == "kept_out"
    assert "nobody" in changes.read(index).removed.to_list()


def test_an_index_that_cannot_be_changed_says_so(
    index: Path, open_service: Callable[..., Service], caplog: pytest.LogCaptureFixture
) -> None:
    bundle = next((index / "bundles").iterdir())
    with TestClient(create_app(open_service(bundle))) as client:
        for response in (add(client, "a", title="a"), client.delete("/v1/notes/n000001", headers=AUTHORISED)):
            assert code(response) == (403, "forbidden") and "one bundle" in response.text
    (index / ".changing").unlink(missing_ok=True)
    (index / ".changing").mkdir()  # stands for a folder that can't be written to
    with TestClient(create_app(open_service(index))) as client:
        for response in (add(client, "a", title="a"), client.delete("/v1/notes/n000001", headers=AUTHORISED)):
            assert code(response) == (503, "unavailable") and str(index) not in response.text
            assert "the index can't be changed now" in response.text
    assert str(index) in caplog.text


def test_errors_that_nobody_foresaw_name_no_path(
    index: Path, open_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def damaged(*_: Any) -> None:
        raise ArtefactError(f"{index}: damaged")

    with TestClient(create_app(open_service(index))) as client:
        monkeypatch.setattr("noterec.serving.service.attributes_of", damaged)
        response = client.get("/v1/notes/n000001")
        assert code(response) == (503, "unavailable") and "its log says why" in response.text
        assert "damaged" not in response.text and str(index) in caplog.text
        assert 'noterec_refused_total{code="unavailable"} 1.0' in client.get("/metrics").text


def test_messages_are_whole_whatever_the_index_s_folder_is_called(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_service: Callable[..., Service]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "i").symlink_to(built)
    with TestClient(create_app(open_service(Path("i")))) as client:
        told = similar(client, note_id="n000001", where=["nope=3"]).json()["error"]["message"]
    assert "the index has no attribute" in told and "the the" not in told


def test_words_are_there_when_their_files_are_gone(index: Path, open_service: Callable[..., Service]) -> None:
    with TestClient(create_app(open_service(index, poll_seconds=60))) as client:
        shutil.rmtree(index)  # as when the last of several bundles goes, of which one is still served
        assert ids(similar(client, note_id="n000001", fuse=True))


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("exposure<=100", "body.where: expected an object with a condition for each attribute, or a list"),
        ({"exposure": [0] * 30_000}, "body.where: more than 20,000 names and values"),
        ({"exposure": {"not": [[]] * 30_000}}, "body.where: more than 20,000 names and values"),
        ({"language": ["en", "\ud800"]}, "body.where: holds half a character"),
        (["exposure<=100", 5], "body.where.list.1: Input should be a valid string"),
        ({str(number): 1 for number in range(65)}, "body.where.object: Dictionary should have at most 64 items"),
    ],
)
def test_what_is_wrong_with_conditions_is_said_plainly(asked: TestClient, where: Any, told: str) -> None:
    headers = {"content-type": "application/json"}
    response = asked.post("/v1/similar", content=json.dumps({"note_id": "n000001", "where": where}), headers=headers)
    assert code(response) == (422, "invalid")
    message = response.json()["error"]["message"]
    assert message.startswith(told) and "[" not in message and "; body" not in message


def test_very_many_values_hold_nobody_up(asked: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '{"note_id": "n000001", "where": {"nope": [' + "[]," * 100_000 + "1]}}"
    headers = {"content-type": "application/json"}
    assert code(asked.post("/v1/similar", content=text, headers=headers)) == (413, "too_large")
    monkeypatch.setattr("noterec.serving.service.key_of", lambda *_: pytest.fail("megabytes were hashed"))
    response = similar(asked, note={"title": "a", "images": ["A" * 5_000_000]})
    assert code(response) == (422, "no_sight")


def test_without_a_model_ids_and_vectors_can_be_asked(built: Path, open_service: Callable[..., Service]) -> None:
    with TestClient(create_app(open_service(built, see=None))) as client:
        assert ids(client.get("/v1/similar", params={"note_id": "n000001"}))
        assert code(similar(client, note={"title": "a"})) == (503, "no_model")
        assert client.get("/readyz").json()["encoder"] is False


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_new_bundle_goes_live_and_a_bad_one_does_not(
    client: TestClient, index: Path, embeddings: Path, platform: Path
) -> None:
    def ready() -> Any:
        return client.get("/readyz").json()

    first = ready()["index_version"]
    build_index(embeddings, notes=platform / "data", out=index)
    wait_for(lambda: ready()["index_version"] != first)
    second = ready()["index_version"]
    found = ids(client.get("/v1/similar", params={"note_id": "n000001"}))
    version = client.app.state.service.index.model_version  # type: ignore[attr-defined]

    other = write_shards(index.parent / "other", embeddings_table(["x", "y"], unit(np.eye(2, 32)), version="another"))
    build_index(other, out=index)
    wait_for(lambda: ready()["problem"] is not None)
    assert "of another model version" in ready()["problem"] and str(index) not in ready()["problem"]
    assert (ready()["index_version"], ready()["model_version"], ready()["ready"]) == (second, version, True)
    assert ids(client.get("/v1/similar", params={"note_id": "n000001"})) == found
    assert 'noterec_index_swaps_total{result="refused"} 1.0' in client.get("/metrics").text
    assert code(add(client, "a", title="a")) == (503, "unavailable")

    build_index(embeddings, notes=platform / "data", out=index)
    wait_for(lambda: ready()["problem"] is None)
    assert ready()["index_version"] not in (first, second)


def test_a_flipped_byte_does_not_go_live(client: TestClient, index: Path, embeddings: Path, platform: Path) -> None:
    summary = build_index(embeddings, notes=platform / "data", out=index.parent / "elsewhere")
    bundle = index.parent / "elsewhere" / "bundles" / summary.bundle
    target = index / "bundles" / "bundle-000009"
    bundle.rename(target)
    file = target / "notes.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    (index / "CURRENT").write_text("bundle-000009\n")
    wait_for(lambda: client.get("/readyz").json()["problem"] is not None)
    assert "could not be opened" in client.get("/readyz").json()["problem"]
    assert ids(client.get("/v1/similar", params={"note_id": "n000001"}))


def test_an_index_of_another_model_is_refused_at_the_start(
    tmp_path: Path, open_service: Callable[..., Service]
) -> None:
    other = write_shards(tmp_path / "other", embeddings_table(["x", "y"], unit(np.eye(2, 32)), version="another"))
    build_index(other, out=tmp_path / "index")
    with pytest.raises(ArtefactError, match="model version"):
        open_service(tmp_path / "index")


def test_an_index_of_one_note(tmp_path: Path, open_service: Callable[..., Service]) -> None:
    one = write_shards(tmp_path / "one", embeddings_table(["only"], unit([[3.0, 4.0]])))
    build_index(one, out=tmp_path / "index")
    with TestClient(create_app(open_service(tmp_path / "index", see=None))) as client:
        assert ids(client.get("/v1/similar", params={"note_id": "only"})) == []
        record = similar(client, vector=[1, 0]).json()["neighbours"]
        assert record == [{"rank": 1, "note_id": "only", "score": pytest.approx(0.6), "title": None, "category": None}]
        assert client.delete("/v1/notes/only", headers=AUTHORISED).status_code == 200  # and now it is empty
        assert ids(similar(client, vector=[1, 0])) == []
        assert client.get("/readyz").json()["notes"] == 0


def test_a_title_of_any_length_is_cut_in_an_answer(client: TestClient) -> None:
    assert add(client, "long", title="Cold brew " * 1000).status_code == 200
    first = similar(client, note={"title": "Cold brew " * 1000}, k=1).json()["neighbours"][0]
    assert (first["note_id"], first["title"]) == ("long", "Cold brew " * 50)
    assert client.get("/v1/notes/long").json()["attributes"]["title"] == "Cold brew " * 1000


def test_the_reference_shows_every_operation_and_runs_no_script(asked: TestClient) -> None:
    page = asked.get("/docs").text
    for path, operations in asked.get("/openapi.json").json()["paths"].items():
        for method in operations:
            assert f"<code>{method.upper()} {path}</code>" in page
    assert (
        asked.get("/explorer/static/icon.svg").status_code == 200
    )  # a browser asks for /favicon.ico where none is linked
    assert "href=/explorer/static/icon.svg" in page and "table-layout: fixed" in asked.get("/docs.css").text
    duplicates = asked.get("/openapi.json").json()["components"]["schemas"]["SimilarRequest"]["properties"][
        "duplicates"
    ]
    assert duplicates["anyOf"][0]["exclusiveMinimum"] == 0
    assert "<script" not in page and "http" not in page.replace("/openapi.json", "")
    assert asked.get("/docs.css").headers["content-type"].startswith("text/css")


def test_metrics_are_of_this_service_alone(client: TestClient, asked: TestClient) -> None:
    client.get("/v1/notes/n000001")
    text = client.get("/metrics").text
    assert 'noterec_request_seconds_count{method="GET",route="/v1/notes/{note_id:path}",status="200"} 1.0' in text
    assert 'noterec_index_info{kind="flat"' in text and "noterec_index_notes 240.0" in text
    assert "n000001" not in text


def test_a_model_that_sees_gets_the_picture_and_no_bomb(
    backbone_folder: Callable[[str], Path], tmp_path: Path, open_service: Callable[..., Service]
) -> None:
    encoder = seeing(backbone_folder("qwen3"))
    vectors = unit(np.eye(3, encoder.dimension))
    write_shards(tmp_path / "e", embeddings_table(["x", "y", "z"], vectors, version=encoder.model_version))
    build_index(tmp_path / "e", out=tmp_path / "index")
    data = picture("JPEG", side=24)
    with TestClient(create_app(open_service(tmp_path / "index", see=encoder))) as client:
        notes = [{"title": "Tea", "images": [text64(data)]}, {"title": "Tea"}, {"images": [text64(data)]}]
        found = np.array(client.post("/v1/embed", json={"notes": notes}).json()["vectors"])
        expected = encoder.encode([Note(title="Tea", images=[data]), Note(title="Tea"), Note(images=[data])])
        np.testing.assert_allclose(found, expected, atol=2e-5)
        assert abs(found[0] - found[1]).max() > 1e-3
        for hostile in (text64(bomb()), text64(picture(side=64)[:-30]), base64.b64encode(b"<svg/>").decode(), "%%%"):
            status, told = code(similar(client, note={"title": "a", "images": [hostile]}))
            assert status == 422 and told.startswith("image_")
        assert 'noterec_stage_seconds_count{stage="decode"}' in client.get("/metrics").text


def test_examples_of_the_description_are_answered(client: TestClient) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    for body in schemas["SimilarRequest"]["examples"]:
        assert similar(client, **json.loads(json.dumps(body))).status_code == 200
    for body in schemas["NewNote"]["examples"]:
        assert add(client, **body).status_code == 200
