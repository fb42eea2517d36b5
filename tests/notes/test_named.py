from pathlib import Path

import pytest

from noterec import schema, storage
from noterec.errors import InputError
from noterec.notes.dataset import Dataset
from noterec.notes.importing import import_dataset

ITEMS = """movie_id,title,genre_unknown,Action,Comedy,War,overview,original_language
1,"Film, The (1995)",0,1,0,1,A story.,en
2,Other (1996),0,0,1,0,,fr
1,"Film, The (1995)",0,1,0,1,A story.,en
"""


def test_movielens(tmp_path: Path) -> None:
    src = tmp_path / "ml"
    (src / "posters").mkdir(parents=True)
    (src / "posters" / "1.jpg").write_bytes(b"jpeg")
    (src / "items.csv").write_text(ITEMS)
    (src / "ratings.csv").write_text(
        "user_id,movie_id,rating,unix_timestamp\n7,1,4,881250949\n7,2,3,881250950\n8,2,x,1\n"
    )
    with pytest.raises(InputError, match="duplicate note_id"):
        import_dataset("movielens", src, tmp_path / "out")
    summary = import_dataset("movielens", src, tmp_path / "out", max_reject_share=0.4)
    assert (summary.notes, summary.notes_rejected, summary.engagement, summary.engagement_rejected) == (2, 1, 2, 1)
    data = Dataset(tmp_path / "out")
    film, other = data.notes().rows(named=True)
    assert (film["title"], film["content"], film["language"]) == ("Film, The (1995)", "A story.", "en")
    assert (film["hashtags"], film["category"]) == (["Action", "War"], "Action")
    assert film["images"] == [{"bytes": b"jpeg", "path": "1.jpg"}]
    assert (other["images"], other["content"], other["hashtags"]) == (None, None, ["Comedy"])
    assert data.clock == "time"
    assert data.engagement()["action"].to_list() == ["click", "view"]
    assert data.engagement()["timestamp"].dt.epoch("s").to_list() == [881250949, 881250950]


def test_movielens_without_its_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"items\.csv"):
        import_dataset("movielens", tmp_path, tmp_path / "out")


def test_notellm(tmp_path: Path) -> None:
    src = tmp_path / "xhs"
    (src / "images").mkdir(parents=True)
    (src / "images" / "p1.jpg").write_bytes(b"jpeg")
    (src / "notes.csv").write_text(
        'n1,标题,"今天去爬山 #登山[话题]# #周末[话题]#",p1,户外@登山@\nn2,只有标题,,p2,美食@\nn3,,,,\n',
        encoding="utf-8",
    )
    (src / "pairs.csv").write_text("n1,n2\nn2,n1\nn1,n1\nn1,n9\nn1,n2\n")
    summary = import_dataset("notellm", src, tmp_path / "out", max_reject_share=0.7)
    assert (summary.notes, summary.notes_rejected, summary.pairs, summary.missing_images) == (2, 1, 2, 1)
    first, second = Dataset(tmp_path / "out").notes().rows(named=True)
    assert (first["title"], first["content"]) == ("标题", "今天去爬山")
    assert (first["hashtags"], first["category"]) == (["登山", "周末"], "户外/登山")
    assert first["images"][0]["path"].endswith("images/p1.jpg")
    assert (second["category"], second["hashtags"], second["images"]) == ("美食", None, None)
    pairs = storage.read_table(tmp_path / "out" / "pairs.parquet", schema.PAIRS).to_pylist()
    assert [(p["anchor_id"], p["related_id"], p["rank"]) for p in pairs] == [("n1", "n2", 1), ("n2", "n1", 1)]
    reasons = storage.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    assert [r["reason"] for r in reasons if r["table"] == "pairs"] == [
        "a pair of a note with itself",
        "a pair with an unknown note",
        "a pair that was there already",
    ]


def test_named_formats_take_no_map(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="knows its columns"):
        import_dataset("notellm", tmp_path, tmp_path / "out", notes_map={"title": "x"})
