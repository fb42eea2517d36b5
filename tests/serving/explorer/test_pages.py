"""The router: every page, what its script asks for, what is refused, and notes that are hostile."""

from __future__ import annotations

import asyncio
import html
import io
import json
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from PIL import Image
from starlette.testclient import TestClient

from noterec import storage
from noterec.errors import InputError
from noterec.evaluation.tables import WORDS
from noterec.index.search import Index
from noterec.model.encoder import NoteEncoder
from noterec.model.generation.writer import Generation
from noterec.serving.explorer import writing
from noterec.serving.explorer.atlas import Atlases
from noterec.serving.explorer.outline import Outlines
from noterec.serving.explorer.site import Site
from noterec.serving.explorer.views import Views
from noterec.serving.loading import open_service
from tests.serving.conftest import AUTHORISED
from tests.serving.explorer.conftest import HOSTILE

Explore = Callable[..., TestClient]
VOID = {"meta", "link", "input", "img", "br", "rect", "circle", "path", "line"}


class Page(HTMLParser):
    """A page's elements and text; fails where elements aren't closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page(client: TestClient, path: str = "/", status: int = 200, **query: Any) -> Page:
    response = client.get(path, params=query, follow_redirects=False)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["content-security-policy"].startswith("default-src 'self';")
    assert response.headers["x-content-type-options"] == "nosniff"
    read = Page(response.text)
    assert read.open == []
    # Nothing inline, nothing from elsewhere: the policy would stop it, and so the page must not need it.
    for tag, attributes in read.elements:
        assert tag not in ("style", "iframe", "object", "base") and "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "/").startswith(("/", "#"))
            assert not (attributes.get(name) or "").startswith("//")
    assert [attributes.get("src") for attributes in read.all("script")] == ["/explorer/static/explorer.js"]
    return read


def links(read: Page) -> list[str]:
    """Of the cards of a page, to the notes they are of."""
    return [attributes["href"] or "" for attributes in read.all("a") if attributes.get("dir") == "auto"]


def test_the_first_page_offers_new_notes(explore: Explore) -> None:
    client = explore()
    first, again, other = (page(client, seed=seed) for seed in (1, 1, 2))
    assert first.text == again.text and links(first) != links(other)
    offered = re.findall(r"/\?note=(n\d\d)'", str(links(first)))
    assert sorted(offered) == [f"n{number}" for number in range(33, 40)]
    for fact in ("Notes 46, 7 new", "Kind flat", Index.open(client.app.state.service.index.folder).version):  # type: ignore[attr-defined]
        assert fact in first.text
    assert "noterec serve" not in first.text
    assert "expected a whole number" in page(client, status=422, seed="x").text


def test_a_note_and_its_neighbours(explore: Explore) -> None:
    client = explore()
    read = page(client, note="n00", k=6)
    answer = client.post("/v1/similar", json={"note_id": "n00", "k": 6}).json()["neighbours"]
    assert re.findall(r"/\?note=(n\d\d)&k=6'", str(links(read))) == [item["note_id"] for item in answer]
    assert "6 neighbours" in read.text
    for item in answer:
        assert f"{item['score']:.3f}" in read.text
    for words in (
        "A coffee day, number 0",
        "2 people engaged with both",
        "nobody engaged with both yet",
        "shares #coffee #daily",
    ):
        assert words in read.text
    assert "Engaged 2 people" in read.text
    assert client.get("/?note=n00&k=6").text.count("<h1") == 1


def test_what_is_chosen_is_what_the_api_finds(explore: Explore) -> None:
    client = explore()
    chosen = {
        "note": "n01",
        "k": 24,
        "candidates": "new",
        "category": "Food",
        "author": 1,
        "reposts": 1,
        "diversity": 0.4,
    }
    read = page(client, **chosen)
    asked = {
        "note_id": "n01", "k": 24, "candidates": "new", "where": {"category": {"under": "Food"}}, "per_author": 1,
        "duplicates": 0.97, "diversity": 0.4,
    }  # fmt: skip
    expected = [item["note_id"] for item in client.post("/v1/similar", json=asked).json()["neighbours"]]
    assert 0 < len(expected) < 7
    assert re.findall(r"/\?note=(n\d\d)&k=24&candidates=new&category=Food", str(links(read))) == expected
    assert f"{len(expected)} neighbours among new notes in Food" in read.text
    checked = [a.get("name") for a in read.all("input") if "checked" in a]
    assert checked == ["candidates", "author", "reposts"]
    assert "Take another category" in page(client, note="n01", category="Nowhere").text


@pytest.mark.parametrize("note_id", HOSTILE)
def test_hostile_notes_are_text(explore: Explore, note_id: str) -> None:
    client = explore()
    for path in ("/", "/map"):
        for query in ({"note": note_id}, {"note": next(i for i in HOSTILE if i != note_id), "k": 96}):
            read = page(client, path, **query)
            assert not any(attributes.get("src") == "x" for attributes in read.all("img"))
            assert {tag for tag, _ in read.elements}.isdisjoint({"b", "u"})
            assert len(client.get(path, params=query).content) < 150_000
    read = page(client, note=note_id)
    fields = HOSTILE[note_id]
    title = " ".join(str(fields.get("title") or f"note {note_id}")[:500].split())
    assert title in read.text.replace("\x00", "")
    for path in ("/", "/explorer/suggest"):
        assert (
            client.get(path, params={"q": (fields.get("title") or note_id)[:512]}, follow_redirects=True).status_code
            == 200
        )


def test_a_long_text_is_folded_and_cut(explore: Explore) -> None:
    client = explore()
    read = page(client, note="long")
    assert "90,000 more characters are not shown" in read.text
    assert read.text.count("x" * 9000) == 1 and "x" * 10_000 not in read.text
    short = page(client, note="n01").text
    assert "more less" in short and "All about baking. …" not in short


def test_templates_of_notes_are_not_run(explore: Explore) -> None:
    assert "{{ 7*7 }} {% raw %} ${7*7}" in page(explore(), note="zalgo").text


def test_search(explore: Explore) -> None:
    client = explore()
    assert client.get("/?q=n07&k=6", follow_redirects=False).headers["location"] == "/?note=n07&k=6"
    found = page(client, q="#climbing 11")
    assert "1 note for “ #climbing 11 ”" in found.text
    assert re.findall(r"/\?note=(n\d\d)'", str(links(found))) == ["n11"]
    assert "No note for “ <nothing> ”" in page(client, q="<nothing>").text
    suggested = client.get("/explorer/suggest?q=climbing").json()["notes"]
    assert len(suggested) == 8
    assert suggested[0] == {"note_id": "n03", "title": "A climbing day, number 3", "category": "Sport/Climbing"}
    assert client.get("/explorer/suggest").json() == {"notes": []}
    assert client.get("/explorer/suggest", params={"q": "owned"}).json()["notes"][0]["title"].startswith("<script>")


def test_a_note_that_isn_t_there(explore: Explore, own_index: Path) -> None:
    client = explore(own_index)
    read = page(client, status=404, note="n0x")
    assert "the index has no note 'n0x'" in read.text
    assert client.delete("/v1/notes/n05", headers=AUTHORISED).status_code == 200
    assert "no note 'n05': it was removed, or is not indexed yet" in page(client, status=404, note="n05").text
    assert "n05" not in [note["note_id"] for note in client.get("/explorer/suggest?q=number 5").json()["notes"]]
    assert "n05" not in json.loads(client.get("/explorer/points").content)["id"]
    assert "Notes 45" in page(client).text
    added = {"note_id": "n05", "title": "Back again", "attributes": {"category": "Food/Tea"}}
    assert client.post("/v1/notes", json=added, headers=AUTHORISED).status_code == 200
    page(client, note="n05")
    assert "n05" in json.loads(client.get("/explorer/points").content)["id"]


@pytest.mark.parametrize("path", ["/", "/map", "/try", "/evaluation"])
@pytest.mark.parametrize("query", [{"k": "x"}, {"diversity": "9"}, {"note": "x" * 600}, {"candidates": "<b>"}])
def test_addresses_that_make_no_sense(explore: Explore, path: str, query: dict[str, str]) -> None:
    assert "expected" in page(explore(), path, status=422, **query).text


def test_an_explorer_of_nothing_but_an_index_says_what_to_pass(explore: Explore) -> None:
    client = explore(bare=True)
    start = page(client)
    for option in ("--notes DATASET", "--model MODEL", "--report REPORT"):
        assert option in start.text
    assert "noterec serve INDEX --model MODEL" in page(client, "/try").text
    assert "noterec evaluate" in page(client, "/evaluation").text
    note = page(client, note="n01")
    assert "A baking day, number 1" in note.text and "engaged with both" not in note.text
    assert not note.all("img")
    assert client.get("/explorer/suggest?q=baking").json()["notes"]
    assert client.get("/explorer/picture?note=n01&number=0").status_code == 404
    refused = client.post("/explorer/try", json={"title": "a"})
    assert refused.status_code == 503 and "no model" in refused.text
    assert client.post("/explorer/write", json={"title": "a"}).status_code == 503


def test_an_index_that_became_empty(explore: Explore, own_index: Path) -> None:
    client = explore(own_index)
    for note_id in client.app.state.service.index.ids.to_list():  # type: ignore[attr-defined]
        client.app.state.service._live.remove([note_id])  # type: ignore[attr-defined]
    assert "The index is empty" in page(client).text
    assert "there is nothing to map" in page(client, "/map").text
    assert json.loads(client.get("/explorer/points").content)["id"] == []


def test_pictures(explore: Explore) -> None:
    client = explore()
    answer = client.get("/explorer/picture?note=n01&number=0")
    assert answer.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(answer.content)).size == (60, 40)
    again = client.get("/explorer/picture?note=n01&number=0", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/explorer/picture?note=n02&number=0").headers["etag"] != answer.headers["etag"]
    hostile = client.get("/explorer/picture", params={"note": next(iter(HOSTILE)), "number": 0})
    assert hostile.headers["content-type"] == "image/svg+xml" and b"alert" not in hostile.content
    for query in ("note=n01&number=1", "note=n00&number=0", "note=n01&number=-1", "note=../../etc/passwd&number=0",
                  "note=n01&number=0&size=../large"):  # fmt: skip
        assert client.get(f"/explorer/picture?{query}").status_code == 404
    assert client.get("/explorer/picture?note=n01&number=x").status_code == 422


def test_static_files_are_those_of_the_package(explore: Explore) -> None:
    client = explore()
    for name, kind in (("explorer.js", "text/javascript"), ("map.js", "text/javascript"), ("explorer.css", "text/css")):
        answer = client.get(f"/explorer/static/{name}")
        assert answer.headers["content-type"].startswith(kind)
        assert (
            client.get(f"/explorer/static/{name}", headers={"if-none-match": answer.headers["etag"]}).status_code == 304
        )
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|https?://", answer.text)
    for name in ("../pages.py", "..%2fpages.py", "pages.py", "", ".", "explorer.js%00"):
        assert client.get(f"/explorer/static/{name}").status_code == 404


def test_the_map(explore: Explore) -> None:
    client = explore()
    answer = client.get("/explorer/points")
    record = json.loads(answer.content)
    assert sorted(record["id"]) == sorted([f"n{number:02d}" for number in range(40)] + list(HOSTILE))
    assert {len(column) for column in record.values()} == {46}
    assert dict(zip(record["id"], record["colour"], strict=True))["n03"] == 1  # Sport: after Food, before Travel
    assert client.get("/explorer/points", headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    read = page(client, "/map", note="n03", k=6)
    marked = [attributes for attributes in read.all("a") if "data-x" in attributes]
    assert [attributes["data-rank"] for attributes in marked] == ["0", "1", "2", "3", "4", "5", "6"]
    places = dict(zip(record["id"], zip(record["x"], record["y"], strict=True), strict=True))
    for attributes in marked:
        x, y = places[str(attributes["data-id"])]
        assert (float(attributes["data-x"] or 9), float(attributes["data-y"] or 9)) == pytest.approx((x, y), abs=2e-4)
    assert "there is no such note" in page(client, "/map", status=404, note="nobody").text.lower()


def test_the_evaluation(explore: Explore, report: Path, tmp_path: Path) -> None:
    client = explore()
    read = page(client, "/evaluation")
    for words in ("1,234 notes of mine", "4 May 2026", "0.3500 – 0.4500", "better", "<i>mine</i>", "against bm25"):
        assert words in read.text
    assert not read.all("i")
    lanes = [a.get("aria-label") or "" for a in read.all("svg") if a.get("class") == "lane"]
    assert "recall@10 0.4000, 95 % interval 0.3500 to 0.4500; recall@50 0.7000" in " ".join(lanes)
    titles = {a["title"] for a in read.all("abbr")}
    for title in titles:
        assert title in read.text  # for those who can't point at a word, too
    for start in (
        "a way to find neighbours",
        "whether an arm's",
        "of the relevant notes",
        "the share of all candidates",
    ):
        assert [title for title in titles if str(title).startswith(start)]
    assert WORDS["coverage"].format(at=10) in titles and WORDS["mrr"].format(at=10) not in titles


def test_a_report_that_can_t_be_read_is_refused_at_the_start_and_hides_its_path_later(
    explore: Explore, world: Path, report: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = tmp_path / "a-secret-place"
    with pytest.raises(InputError, match=r"a-secret-place.*no metrics\.json"):
        open_service(world / "index", report=own)
    storage.write_json(own / "metrics.json", storage.read_json(report / "metrics.json"))
    open_service(world / "index", report=own).close()
    client = explore(beside={"report": own})
    assert "1,234 notes" in page(client, "/evaluation").text
    broken = storage.read_json(report / "metrics.json")
    broken["arms"]["bm25"] = 7
    for damage in (lambda: storage.write_json(own / "metrics.json", broken), (own / "metrics.json").unlink):
        damage()
        said = page(client, "/evaluation", status=503).text
        assert "the evaluation can't be read now" in said and "a-secret-place" not in said
        assert "a-secret-place" in caplog.text
        caplog.clear()
    assert "A coffee day" in page(client, note="n00").text


def test_a_note_that_was_replaced_is_shown_as_it_was_posted(explore: Explore, own_index: Path) -> None:
    client = explore(own_index)
    assert "All about baking" in page(client, note="n01").text
    assert client.get("/explorer/picture?note=n01&number=0").status_code == 200
    posted = {"note_id": "n01", "title": "Quite " + 600 * "another", "attributes": {"category": "Music/Jazz"}}
    assert client.post("/v1/notes", json=posted, headers=AUTHORISED).json()["change"] == "replaced"
    read = page(client, note="n01")
    assert "Quite another" in read.text and "Music/Jazz" in read.text
    assert str(posted["title"]) not in read.text  # a title may be as long as its author likes
    for old in ("A baking day, number 1", "All about baking", "Food/Baking"):
        assert old not in page(client, note="n01", category="Nowhere").text.split("Choose neighbours")[0]
    assert not [a for a in read.all("img") if "note=n01&" in (a.get("src") or "")]
    assert client.get("/explorer/picture?note=n01&number=0").status_code == 404
    assert "Quite another" in page(client, note="n05", k=96).text  # as a neighbour, too


def test_notes_that_were_posted_are_found_by_what_they_say_now(explore: Explore, own_index: Path) -> None:
    client = explore(own_index)

    def found(text: str) -> list[str]:
        return [n["note_id"] for n in client.get("/explorer/suggest", params={"q": text}).json()["notes"]]

    for note_id, title in (("n01", "Saxophone at NOON"), ("p1", "Ｓaxophone"), ("p2", "A climbing saxophone, 11")):
        assert (
            client.post("/v1/notes", json={"note_id": note_id, "title": title}, headers=AUTHORISED).status_code == 200
        )
    assert found("SAXOPHONE") == ["p1", "n01", "p2"]  # the closest first
    assert found("climbing 11") == ["p2", "n11"]
    assert found("p2") == ["p2"]
    assert found("baking number 1") == ["n13", "n17", "n21"]  # not by the title that n01 had
    assert client.delete("/v1/notes/p1", headers=AUTHORISED).status_code == 200
    assert found("saxophone") == ["n01", "p2"]


def test_a_note_that_was_taken_down_is_nowhere(explore: Explore, own_index: Path) -> None:
    client = explore(own_index)
    picture = "/explorer/picture?note=n01&number=0&size=large"
    answer = client.get(picture)
    assert answer.status_code == 200
    assert client.delete("/v1/notes/n01", headers=AUTHORISED).status_code == 200
    assert client.get(picture).status_code == 404
    assert client.get(picture, headers={"if-none-match": answer.headers["etag"]}).status_code == 404
    for text in ("n01", "baking number 1"):
        assert "n01" not in [n["note_id"] for n in client.get("/explorer/suggest", params={"q": text}).json()["notes"]]
    said = page(client, status=404, note="n01").text
    assert "dataset" not in said and "embed" not in said


def test_a_neighbour_that_goes_while_the_page_is_made_is_left_out(
    explore: Explore, own_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = explore(own_index)
    service = client.app.state.service  # type: ignore[attr-defined]
    original = type(service).answer
    gone: list[str] = []

    async def then_removed(self: Any, request: Any) -> Any:
        answer = await original(self, request)
        self._live.remove(gone)
        return answer

    monkeypatch.setattr(type(service), "answer", then_removed)
    first, *others = [
        item["note_id"] for item in client.post("/v1/similar", json={"note_id": "n00"}).json()["neighbours"]
    ]
    gone.append(first)
    shown = re.findall(r"/\?note=(n\d\d)'", str(links(page(client, note="n00"))))
    assert shown[: len(others)] == others
    gone.append("n04")
    page(client, status=404, note="n04")


@pytest.mark.parametrize("most", [1, 10])
def test_a_service_of_few_neighbours(explore: Explore, most: int) -> None:
    client = explore(max_k=most)
    read = page(client, note="n00")
    assert len(links(read)) == most
    offered = [a["value"] for a in read.all("option") if str(a["value"]).isdecimal()]
    assert offered == {1: ["1"], 10: ["6", "10"]}[most]
    assert all(link.startswith("/?note=") and "k=" not in link for link in links(read))
    assert "reset" not in [a.get("class") for a in read.all("a")]
    assert len(links(Page(client.post("/explorer/try", json={"title": "a"}).text))) == most
    assert f"from 1 to {most}" in page(client, note="n00", k=12, status=422).text
    page(client, "/map", note="n00")


def test_an_answer_from_the_cache_is_called_one(explore: Explore) -> None:
    client = explore()
    first, again = (page(client, note="n00", k=7).text for _ in range(2))
    assert re.search(r"7 neighbours [\d.]+ ms", first) and "7 neighbours from the cache" in again


def test_what_is_refused_is_counted(explore: Explore) -> None:
    client = explore(bare=True)
    for path, code in (("/?note=nobody", "unknown_note"), ("/?k=x", "invalid"), ("/map?diversity=7", "invalid")):
        before = counted(client, code)
        client.get(path)
        assert counted(client, code) == before + 1
    client.post("/explorer/try", json={"title": "a"})
    assert counted(client, "no_model") == 1


def counted(client: TestClient, code: str) -> float:
    found = re.search(rf'noterec_refused_total{{code="{code}"}} ([\d.]+)', client.get("/metrics").text)
    return float(found[1]) if found else 0.0


def test_pages_are_made_beside_the_event_loop(explore: Explore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever takes time on a page: its rendering, the index's outline, the map, and what is said of the model."""
    wrong: list[str] = []

    def apart(kind: type, name: str) -> None:
        original = getattr(kind, name)

        def watched(*given: Any, **options: Any) -> Any:
            try:
                asyncio.get_running_loop()
                wrong.append(name)
            except RuntimeError:
                pass
            return original(*given, **options)

        monkeypatch.setattr(kind, name, watched)

    for kind, name in ((Site, "page"), (Outlines, "of"), (Atlases, "of"), (Views, "frame"), (Views, "_categories")):
        apart(kind, name)
    client = explore()
    for path in (
        "/",
        "/?note=n00",
        "/?q=coffee",
        "/?q=n01",
        "/map",
        "/map?note=n00",
        "/try",
        "/evaluation",
        "/?k=x",
        "/?note=x",
    ):
        client.get(path)
    for body in ({"title": "a"}, {"title": " "}):
        client.post("/explorer/try", json=body)
        client.post("/explorer/write", json=body)
    assert wrong == []


def test_a_new_note(explore: Explore) -> None:
    client = explore()
    note = {"title": "<b>Rope</b> weekend", "content": "belay", "hashtags": ["climbing"]}
    answer = client.post("/explorer/try", json={**note, "choice": {"k": "6", "category": "Sport"}})
    asked = {"note": note, "k": 6, "where": {"category": {"under": "Sport"}}}
    expected = [item["note_id"] for item in client.post("/v1/similar", json=asked).json()["neighbours"]]
    assert answer.status_code == 200
    read = Page(answer.text)
    assert re.findall(r"note=(n\d\d)", str(links(read))) == expected
    assert "shares #climbing" in read.text and "engaged with both" not in read.text
    assert "<html" not in answer.text


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 422, "nothing to read"),
        ({"title": " "}, 422, "nothing to read"),
        ({"title": "a", "choice": {"k": "1000"}}, 422, "k=1000"),
        ({"title": "a", "choice": {"category": "x" * 600}}, 422, "category"),
        ({"title": "a", "images": ["AAAA"]}, 422, "reads text alone"),
    ],
)
def test_new_notes_that_are_refused(explore: Explore, body: dict[str, Any], status: int, words: str) -> None:
    answer = explore().post("/explorer/try", json=body)
    assert answer.status_code == status
    assert words in html.unescape(answer.text) and 'role="alert"' in answer.text
    assert "data-says" in answer.text


@pytest.mark.parametrize("path", ["/explorer/try", "/explorer/write"])
def test_bodies_that_are_no_note(explore: Explore, path: str) -> None:
    client = explore(max_body_bytes=2000)
    assert client.post(path, json={"title": 3}).status_code == 422
    assert client.post(path, json={"unknown": "x"}).status_code == 422
    assert client.post(path, content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert client.post(path, json={"title": "a" * 3000}).status_code == 413


def test_writing_in_the_model_s_thread(explore: Explore, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def generate(self: Any, notes: Any, task: str, **given: Any) -> list[Generation]:
        threads.append(threading.current_thread().name)
        assert notes[0].title == "Rope weekend"
        if task == "category":
            assert given["categories"] is None or "Food/Coffee" in given["categories"]
            return [Generation("0", "category", ("Sport/<b>", "Food"), (0.75, 0.125), None, 0, None)]
        return [Generation("0", "hashtags", ("#rope", "<i>"), None, None, 0, "rope")]

    monkeypatch.setattr("noterec.model.encoder.NoteEncoder.generate", generate)
    monkeypatch.setattr(writing, "_why_not", lambda *given: "")
    client = explore()
    assert "disabled" not in next(a for a in page(client, "/try").all("button") if a.get("id") == "write")
    answer = client.post("/explorer/write", json={"title": "Rope weekend"})
    read = Page(answer.text)
    assert answer.status_code == 200 and not read.all("b") and not read.all("i")
    for words in ("Sport/<b>", "0.75", "#rope", "#<i>", "was not trained to write"):
        assert words in read.text
    assert threads == ["noterec-encoder"] * 2
    assert client.post("/explorer/write", json={"title": " "}).status_code == 422
    assert "at most 20,000" in client.post("/explorer/write", json={"title": "a" * 20_001}).text


def test_others_are_encoded_between_two_tasks_and_one_note_is_written_about_at_a_time(
    explore: Explore, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = explore()
    batcher = client.app.state.service._encoding.batcher  # type: ignore[attr-defined]
    order: list[str] = []
    begun, go_on = threading.Event(), threading.Event()
    encode = NoteEncoder.encode

    def generate(self: Any, notes: Any, task: str, **given: Any) -> list[Generation]:
        order.append(task)
        begun.set()
        assert go_on.wait(10)
        return [Generation("0", task, ("a",), None, None, 0, None)]

    def encoded(self: Any, notes: Any, **given: Any) -> Any:
        order.append("encode")
        return encode(self, notes, **given)

    monkeypatch.setattr(NoteEncoder, "generate", generate)
    monkeypatch.setattr(NoteEncoder, "encode", encoded)
    monkeypatch.setattr(writing, "_why_not", lambda *given: "")
    with ThreadPoolExecutor(2) as pool:
        written = pool.submit(client.post, "/explorer/write", json={"title": "Rope weekend"})
        assert begun.wait(10)
        busy = client.post("/explorer/write", json={"title": "another"})
        assert busy.status_code == 429 and "busy" in busy.text and busy.headers["retry-after"]
        tried = pool.submit(client.post, "/explorer/try", json={"title": "a"})
        while not batcher._waiting:
            time.sleep(0.005)
        go_on.set()
        assert written.result().status_code == tried.result().status_code == 200
    assert order == ["category", "encode", "hashtags"]


def test_writing_may_be_switched_off(explore: Explore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_why_not", lambda *given: "")
    client = explore(writing=False)
    read = page(client, "/try")
    assert "Writing is switched off on this service" in read.text
    assert "disabled" in next(a for a in read.all("button") if a.get("id") == "write")
    assert "disabled" not in next(a for a in read.all("button") if a.get("type") == "submit" and a.get("class"))
    refused = client.post("/explorer/write", json={"title": "a"})
    assert refused.status_code == 403 and 'role="alert"' in refused.text


def test_a_model_that_can_t_write_says_so(explore: Explore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_why_not", lambda *given: "this model can't write <it>")
    client = explore()
    assert "disabled" in next(a for a in page(client, "/try").all("button") if a.get("id") == "write")
    read = Page(client.post("/explorer/write", json={"title": "a"}).text)
    assert read.text.count("this model can't write <it>") == 2


def test_the_pages_are_no_part_of_the_api(explore: Explore) -> None:
    client = explore()
    assert not [path for path in client.get("/openapi.json").json()["paths"] if path == "/" or "explorer" in path]
    assert client.post("/").status_code == 405
    assert client.get("/?" + urlencode({"note": "n00"})).headers["referrer-policy"] == "same-origin"
