import base64
import io
import json
import multiprocessing
import random
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import sqlalchemy
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from PIL import Image

from facemae.core.errors import IntegrityError, UsageError
from facemae.data.images import encode_png
from facemae.recognition.gallery import retention
from facemae.recognition.gallery.database import ResidueWarning
from facemae.recognition.gallery.retention import ClockWarning
from facemae.recognition.gallery.schema import PEOPLE, TEMPLATES, Template
from facemae.recognition.gallery.store import Gallery, GalleryModelError
from gallery import mixing

HOSTILE = [
    "<script>alert(1)</script>",
    "[x](javascript:alert(1)) **b** :red[x] $x$",
    "👩‍👩‍👧 Ada",
    "محمد عبد الله",
    "Robert'); DROP TABLE gallery_people;--",
    "%_\\ ?:name",
    "x" * 100,
]


def names(people):
    return [person.name for person in people]


def today():
    return datetime.now(UTC).date()


def thumbnail(side=64, seed=0):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def best_by_hand(people, query, top):
    """Score people, each a name and their vectors, against one query, in float64."""
    query = query / np.linalg.norm(query)
    scores = {
        name: max(float(np.dot(vector, query) / np.linalg.norm(vector)) for vector in vectors)
        for name, vectors in people.items()
    }
    return sorted(scores.items(), key=lambda item: -item[1])[:top]


# Enrolling and looking


def test_who_is_enrolled_is_found_and_still_there_after_reopening(gallery, address, enrol, until):
    before = datetime.now(UTC)
    person = enrol(gallery, "Ada Lovelace", [1, 0], [0, 1])
    enrol(gallery, "bob", [1, 1], model="model-b")
    assert before <= person.consent <= datetime.now(UTC)
    assert (person.name, person.photos, person.retain_until) == ("Ada Lovelace", 2, until)
    gallery.close()
    with Gallery(address) as again:
        assert again.person("Ada Lovelace") == person
        assert names(again.people()) == ["Ada Lovelace", "bob"]
        assert names(again.people("model-b")) == ["bob"]
        assert names(again.find("LOVE")) == ["Ada Lovelace"]
        assert again.models() == {"model-a": 2, "model-b": 1}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_kept_literally(gallery, enrol, name):
    enrol(gallery, name, [1, 2])
    assert gallery.person(name).name == name
    assert names(gallery.find(name[:7])) == [name]
    assert gallery.search(np.array([[1.0, 2.0]]), "model-a")[0][0].person.name == name
    gallery.rename(name, "plain")
    gallery.rename("plain", name)
    gallery.remove(name)
    assert gallery.people() == []


def test_the_same_name_in_two_spellings_is_one_person(gallery, enrol):
    enrol(gallery, " Zoe\u0308 ", [1, 2])
    assert gallery.person("Zo\u00eb").name == "Zo\u00eb"
    with pytest.raises(UsageError, match="enrolled already"):
        enrol(gallery, "Zo\u00eb", [1, 2])


@pytest.mark.parametrize(("changed", "told"), [
    ({"consent": False}, "consent"),
    ({"retain_until": today() - timedelta(days=2)}, "kept until a day from"),
    ({"retain_until": today() + timedelta(days=1098)}, "kept until a day from"),
    ({"name": "two\nlines"}, "line break"),
    ({"name": "y" * 10_000}, "10000 characters"),
    ({"templates": []}, "no template"),
    ({"templates": [Template(np.array([1, np.nan], np.float32), "model-a")]}, "not finite"),
    ({"templates": [Template(np.zeros(2, np.float32), "model-a")]}, "zero"),
    ({"templates": [Template(np.ones(3, np.float32), "model-a")]}, "3 numbers and this model's have 2"),
    ({"templates": [Template(np.ones(2, np.float32), "mo'del")]}, "hash"),
    ({"name": "Ada"}, "enrolled already"),
])  # fmt: skip
def test_what_cannot_be_enrolled_is_refused_and_leaves_nothing(gallery, enrol, until, changed, told):
    enrol(gallery, "Ada", [1, 0])
    given = {
        "name": "Bob",
        "templates": [Template(np.array([0, 1], np.float32), "model-a")],
        "consent": True,
        "retain_until": until,
    } | changed
    with pytest.raises(UsageError, match=told) as refused:
        gallery.enrol(given.pop("name"), given.pop("templates"), **given)
    assert len(str(refused.value)) < 300
    assert names(gallery.people()) == ["Ada"]
    assert gallery.models() == {"model-a": 1}


def test_a_second_template_that_does_not_fit_takes_the_first_one_back(gallery, enrol):
    with pytest.raises(UsageError, match="3 numbers"):
        enrol(gallery, "Ada", [1, 0], [1, 0, 0])
    assert gallery.people() == []


def test_adding_renews_consent_and_date(gallery, enrol, until):
    first = enrol(gallery, "Ada", [1, 0])
    second = enrol(gallery, "Ada", [0, 1], add=True, retain_until=until + timedelta(days=5))
    assert (second.id, second.created, second.photos) == (first.id, first.created, 2)
    assert second.consent > first.consent
    assert second.retain_until == until + timedelta(days=5)
    assert enrol(gallery, "New", [0, 1], add=True).photos == 1


def test_nobody_of_this_name_is_told_with_close_ones(gallery, enrol):
    enrol(gallery, "Ada Lovelace", [1, 0])
    with pytest.raises(UsageError, match=r'Nobody is enrolled as "Ada Lovlace"; did you mean "Ada Lovelace"'):
        gallery.person("Ada Lovlace")
    for hostile in ("\ud800", "a\0b", "z" * 10_000, ""):
        with pytest.raises(UsageError, match="Nobody is enrolled") as refused:
            gallery.remove(hostile)
        assert len(str(refused.value)) < 200
        str(refused.value).encode()


# Changing


def test_rename(gallery, enrol):
    person = enrol(gallery, "Ada", [1, 0])
    enrol(gallery, "Bob", [0, 1])
    with pytest.raises(UsageError, match="merge the two"):
        gallery.rename("Ada", "Bob")
    assert gallery.rename("Ada", "Ada King").id == person.id
    assert gallery.rename("Ada King", "Ada King").name == "Ada King"
    assert names(gallery.people()) == ["Ada King", "Bob"]
    with pytest.raises(UsageError, match="Nobody"):
        gallery.rename("Ada", "Eve")


def test_merging_keeps_the_earlier_date_and_all_templates(gallery, enrol, until):
    enrol(gallery, "Ada", [1, 0], retain_until=until - timedelta(days=9))
    enrol(gallery, "A. King", [0, 1], [1, 1])
    merged = gallery.merge("Ada", "A. King")
    assert (merged.name, merged.photos) == ("A. King", 3)
    assert merged.retain_until == until - timedelta(days=9)
    found = gallery.search(np.array([[1.0, 0.0]]), "model-a")
    assert [(each.person.name, each.score) for each in found[0]] == [("A. King", 1.0)]
    with pytest.raises(UsageError, match="themselves"):
        gallery.merge("A. King", "A. King")


def test_erasing_leaves_nobody(gallery, enrol):
    for name in ("Ada", "Bob"):
        enrol(gallery, name, [1, 0])
    assert gallery.erase() == 2
    assert (gallery.people(), gallery.models(), gallery.export()["people"]) == ([], {}, [])
    assert gallery.search(np.ones((2, 2)), "model-a") == [[], []]
    enrol(gallery, "Eve", [1, 0, 0])  # a model may come back with another size


# Searching


def test_search_is_the_best_cosine_of_each_person(gallery, enrol):
    numbers = np.random.default_rng(0)
    people = {f"person {each}": numbers.normal(size=(1 + each % 4, 16)) for each in range(60)}
    for name, vectors in people.items():
        enrol(gallery, name, *vectors)
    queries = numbers.normal(size=(37, 16))
    for query, found in zip(queries, gallery.search(queries, "model-a", top=7), strict=True):
        expected = best_by_hand(people, query, 7)
        assert [each.person.name for each in found] == [name for name, _ in expected]
        np.testing.assert_allclose(
            [each.score for each in found], [score for _, score in expected], atol=1e-6
        )
    alone = gallery.search(queries[:1], "model-a", top=7)[0]
    assert alone == gallery.search(queries, "model-a", top=7)[0]  # to the last bit
    assert len(gallery.search(queries[:1], "model-a", top=500)[0]) == 60


def test_the_models_are_kept_apart(gallery, enrol):
    enrol(gallery, "Ada", [1, 0])
    enrol(gallery, "Ada", [0, 1, 0], model="model-b", add=True)
    enrol(gallery, "Bob", [0, 1])
    found = gallery.search(np.array([[0.0, 1.0]]), "model-a")[0]
    assert [(each.person.name, each.score) for each in found] == [("Bob", 1.0), ("Ada", 0.0)]
    assert names(each.person for each in gallery.search(np.eye(3)[:1], "model-b")[0]) == ["Ada"]


def test_another_model_than_the_gallerys_is_refused(gallery, enrol):
    assert gallery.search(np.ones((1, 2)), "c3d4") == [[]]
    enrol(gallery, "Ada", [1, 0], model="a1b2")
    with pytest.raises(GalleryModelError, match=r"another model \(a1b2 vs c3d4\)"):
        gallery.search(np.ones((1, 2)), "c3d4")
    with pytest.raises(GalleryModelError, match=r"another model \(a1b2 vs c3d4\)"):
        gallery.lookalikes("c3d4", 0.5)
    assert issubclass(GalleryModelError, IntegrityError)


@pytest.mark.parametrize("query", [np.ones((1, 3)), np.zeros((1, 2)), [[np.inf, 1]], np.ones(2)])
def test_a_query_that_does_not_fit_is_refused(gallery, enrol, query):
    enrol(gallery, "Ada", [1, 0])
    with pytest.raises(UsageError):
        gallery.search(query, "model-a")


def test_what_another_connection_changes_is_searched_at_once(gallery, address, enrol):
    query = np.array([[1.0, 0.0]])
    enrol(gallery, "Ada", [1, 0])
    enrol(gallery, "Bob", [1, 1])
    assert names(each.person for each in gallery.search(query, "model-a")[0]) == ["Ada", "Bob"]
    with Gallery(address) as other:
        enrol(other, "Cid", [1, 0.1])
        assert names(each.person for each in gallery.search(query, "model-a")[0]) == ["Ada", "Cid", "Bob"]
        other.remove("Ada")
        other.rename("Cid", "Cyd")
        assert names(each.person for each in gallery.search(query, "model-a")[0]) == ["Cyd", "Bob"]
        other.merge("Cyd", "Bob")
        found = gallery.search(query, "model-a")[0]
        assert names(each.person for each in found) == ["Bob"]
        assert found[0].score == pytest.approx(1 / np.hypot(1, 0.1))
        other.erase()
        assert gallery.search(query, "model-a") == [[]]


def test_lookalikes_are_pairs_of_people_not_of_photos(gallery, enrol):
    numbers = np.random.default_rng(1)
    people = {f"person {each}": numbers.normal(size=(2, 6)) for each in range(15)}
    people["twin"] = people["person 3"] + 0.01
    for name, vectors in people.items():
        enrol(gallery, name, *vectors)
    expected = {}
    for first in people:
        for second in people:
            if first < second:
                unit = [vectors / np.linalg.norm(vectors, axis=1)[:, None] for vectors in
                        (people[first], people[second])]  # fmt: skip
                expected[first, second] = float((unit[0] @ unit[1].T).max())
    found = {
        tuple(sorted((one.name, other.name))): score
        for one, other, score in gallery.lookalikes("model-a", 0.6)
    }
    assert next(iter(found)) == ("person 3", "twin")
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert found == pytest.approx({pair: score for pair, score in expected.items() if score >= 0.6}, abs=1e-6)


def test_a_damaged_template_is_told_with_its_person(gallery, enrol):
    enrol(gallery, "Ada", [1, 0])
    person = enrol(gallery, "Bob", [0, 1])
    with gallery._backend.engine.begin() as connection:
        connection.execute(
            sqlalchemy.update(TEMPLATES)
            .where(TEMPLATES.c.person == person.id)
            .values(vector=np.array([1, 0.5], np.float32))
        )
    for attempt in (lambda: gallery.search(np.eye(2), "model-a"), lambda: gallery.export("Bob")):
        with pytest.raises(IntegrityError, match=f"A template of person {person.id} is damaged"):
            attempt()
    gallery.remove("Bob")
    assert names(each.person for each in gallery.search(np.eye(2), "model-a")[1]) == ["Ada"]


def test_a_picture_is_shown_though_the_vector_beside_it_is_damaged(gallery, until):
    png = encode_png(np.zeros((8, 8, 3), np.uint8))
    template = Template(np.array([1, 0], np.float32), "model-a", thumbnail=png)
    person = gallery.enrol("Ada", [template], consent=True, retain_until=until)
    with gallery._backend.engine.begin() as connection:
        connection.execute(sqlalchemy.update(TEMPLATES).values(vector=np.array([1, 0.5], np.float32)))
    assert gallery.thumbnails([person]) == {person.id: png}  # or a page could not offer the removal
    with gallery._backend.engine.begin() as connection:
        connection.execute(sqlalchemy.update(TEMPLATES).values(thumbnail=png + b" "))
    with pytest.raises(IntegrityError, match=f"A template of person {person.id} is damaged"):
        gallery.thumbnails([person])


# Retention


def test_whose_time_is_over_is_not_met_any_more(gallery, address, enrol, until, monkeypatch):
    enrol(gallery, "Ada", [1, 0])
    enrol(gallery, "Bob", [1, 1], retain_until=until + timedelta(days=1))
    query = np.array([[1.0, 0.0]])
    assert gallery.search(query, "model-a")[0][0].person.name == "Ada"
    monkeypatch.setattr(retention, "today", lambda: until)
    assert names(gallery.people()) == ["Ada", "Bob"]  # the last day is one of keeping
    monkeypatch.setattr(retention, "today", lambda: until + timedelta(days=1))
    assert names(gallery.people()) == names(gallery.find("")) == ["Bob"]
    assert names(each.person for each in gallery.search(query, "model-a")[0]) == ["Bob"]
    assert gallery.models() == {"model-a": 1}
    assert [each["name"] for each in gallery.export()["people"]] == ["Bob"]
    assert gallery.lookalikes("model-a", 0.1) == []
    with pytest.raises(UsageError, match="Nobody"):
        gallery.person("Ada")
    assert gallery.purge() == 1
    assert gallery.purge() == 0
    with gallery._backend.engine.connect() as connection:
        assert connection.scalars(sqlalchemy.select(PEOPLE.c.name)).all() == ["Bob"]
    monkeypatch.setattr(retention, "today", lambda: until + timedelta(days=2))
    with Gallery(address) as again, again._backend.engine.connect() as connection:
        assert connection.scalars(sqlalchemy.select(PEOPLE.c.name)).all() == []


def test_the_name_of_one_whose_time_is_over_is_free(gallery, enrol, until, monkeypatch):
    first = enrol(gallery, "Ada", [1, 0])
    monkeypatch.setattr(retention, "today", lambda: until + timedelta(days=1))
    second = enrol(gallery, "Ada", [0, 1], retain_until=until + timedelta(days=9))
    assert second.id != first.id
    assert second.photos == 1
    monkeypatch.setattr(retention, "today", lambda: until + timedelta(days=10))
    assert gallery.purge() == 1


def test_a_clock_that_jumped_deletes_nobody_before_it_is_confirmed(
    gallery, address, enrol, until, monkeypatch
):
    enrol(gallery, "Ada", [1, 0])
    far = until + timedelta(days=800)
    monkeypatch.setattr(retention, "today", lambda: far)
    assert gallery.clock_warning == (
        f"This machine's clock says {far} and the gallery was last used on {today()}, so nobody is deleted; "
        "if the clock is right, say so: facemae gallery purge --yes; else set it."
    )
    with pytest.warns(ClockWarning, match="nobody is deleted"):
        assert gallery.purge() == 0
    assert gallery.people() == []  # but not shown either
    with pytest.warns(ClockWarning), Gallery(address) as again, pytest.raises(UsageError, match="clock says"):
        enrol(again, "Bob", [1, 0], retain_until=far)
    monkeypatch.setattr(retention, "today", today)
    assert names(gallery.people()) == ["Ada"]
    monkeypatch.setattr(retention, "today", lambda: far)
    assert gallery.purge(confirmed=True) == 1
    assert gallery.clock_warning is None
    assert gallery.purge() == 0


def test_a_clock_that_is_behind_deletes_nobody_and_prolongs_nothing(gallery, enrol, until, monkeypatch):
    enrol(gallery, "Ada", [1, 0])
    monkeypatch.setattr(retention, "today", lambda: today() + timedelta(days=25))
    gallery.purge()
    monkeypatch.setattr(retention, "today", today)
    with pytest.raises(UsageError, match=f"a day from {today() + timedelta(days=25)}"):
        enrol(gallery, "Bob", [1, 0], retain_until=today())
    monkeypatch.setattr(retention, "today", lambda: today() - timedelta(days=3000))
    with pytest.warns(ClockWarning):
        assert gallery.purge() == 0
    assert names(gallery.people()) == ["Ada"]


def test_an_empty_gallery_asks_nobody_about_the_clock(gallery, enrol, until, monkeypatch):
    monkeypatch.setattr(retention, "today", lambda: until + timedelta(days=800))
    assert enrol(gallery, "Ada", [1, 0], retain_until=until + timedelta(days=810)).name == "Ada"


def test_a_flipped_bit_in_the_newest_day_is_told():
    for bit in range(60):
        with pytest.raises(IntegrityError):
            retention.clock(retention.stored(today()) ^ 1 << bit)


# Export and thumbnails


def test_an_export_holds_all_and_can_be_enrolled_again(gallery, enrol, until):
    picture = thumbnail()
    vector = np.array([3, 4], np.float32)
    gallery.enrol("Ada", [Template(vector, "model-a", 0.5, picture)], consent=True, retain_until=until)
    enrol(gallery, "Bob", [1, 1])
    assert len(gallery.export()["people"]) == 2
    [told] = json.loads(json.dumps(gallery.export("Ada")))["people"]
    assert told["retain_until"] == until.isoformat()
    [template] = told["templates"]
    assert template["vector"] == pytest.approx([0.6, 0.8])
    assert base64.b64decode(template["thumbnail"]) == picture
    assert set(template) == {each.name for each in TEMPLATES.columns} - {"id", "person"}
    assert set(told) == {each.name for each in PEOPLE.columns} | {"templates"}
    enrol(gallery, "Copy", template["vector"])
    first, second = gallery.search(vector[None], "model-a", top=2)[0]
    assert first.score == pytest.approx(second.score, abs=1e-7)


def test_the_thumbnail_is_that_of_the_best_photo(gallery, enrol, until):
    low, high = thumbnail(seed=1), thumbnail(seed=2)
    vector = np.ones(2, np.float32)
    gallery.enrol(
        "Ada",
        [
            Template(vector, "model-a", None, thumbnail(seed=3)),
            Template(vector, "model-a", 0.1, low),
            Template(vector, "model-a", 0.9, high),
            Template(vector, "model-a", 1.0),
        ],
        consent=True,
        retain_until=until,
    )
    enrol(gallery, "Bob", [1, 1])
    ada, bob = gallery.people()
    assert gallery.thumbnails([ada, bob]) == {ada.id: high}


# Removing leaves nothing


def traces(name, vector, picture):
    """Return pieces of what is stored of a person, in every form in which it may lie on the disk."""
    stored = np.asarray(vector, np.float64)
    unit = (stored / np.linalg.norm(stored)).astype(np.float32)
    found = [name.encode()]
    for blob in (
        unit.astype(">f4").tobytes(),
        unit.astype("<f4").tobytes(),
        picture[60:] if picture else b"",
    ):
        found += [blob[start : start + 16] for start in sorted({0, len(blob) // 2, len(blob) - 16}) if blob]
    return found


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [16, 700])
def test_what_is_removed_is_in_no_file(gallery, address, files, until, size):
    """Pages are split and merged meanwhile, and the write-ahead log holds what was in them."""
    draw, numbers = random.Random(size), np.random.default_rng(size)
    held, gone = {}, []
    in_a_file = not isinstance(address, str)

    def enter(number):
        name = f"Somebody {draw.getrandbits(64):x} {number}"
        vector = numbers.normal(size=size).astype(np.float32)
        picture = thumbnail(32, number) if draw.random() < 0.3 else None
        template = Template(vector, "model-a", None, picture)
        gallery.enrol(name, [template], consent=True, retain_until=until)
        held[name] = [vector, picture]

    for number in range(120 if in_a_file else 40):
        enter(number)
    for number in range(120, 160 if in_a_file else 135):
        name = draw.choice(list(held))
        kind = draw.choice(["remove", "rename", "merge", "enrol"])
        if kind == "enrol":
            enter(number)
            continue
        vector, picture = held[name]
        if kind == "remove":
            gallery.remove(name)
            gone += traces(name, vector, picture)
            del held[name]
        elif kind == "rename":
            gallery.rename(name, f"{number} renamed {draw.getrandbits(64):x}")
            gone.append(name.encode())
            del held[name]
        else:
            into = draw.choice([each for each in held if each != name])
            gallery.merge(name, into)
            gone.append(name.encode())
            del held[name]
        if in_a_file:
            left = files()
            assert [trace for trace in gone if trace in left] == []
    left = files()
    assert [trace for trace in gone if trace in left] == []
    last, (vector, picture) = next(iter(held.items()))
    sought = traces(last, vector, picture)
    assert all(trace in left for trace in sought[:1])  # who is not removed is found by the same search
    assert any(trace in left for trace in sought[1:])
    gallery.erase()
    left = files()
    everything = [trace for name, kept in held.items() for trace in traces(name, *kept)]
    assert [trace for trace in everything if trace in left] == []


def test_what_a_killed_process_had_no_time_to_wipe_is_wiped_on_opening(
    gallery, address, files, enrol, monkeypatch
):
    vector = np.random.default_rng(5).normal(size=64)
    enrol(gallery, "Somebody 5f4dcc3b5aa7", vector)
    enrol(gallery, "Another", vector[::-1])

    def killed():
        raise KeyboardInterrupt

    monkeypatch.setattr(gallery._backend, "wipe", killed)
    with pytest.raises(KeyboardInterrupt):
        gallery.remove("Somebody 5f4dcc3b5aa7")
    assert names(gallery.people()) == ["Another"]
    gone = traces("Somebody 5f4dcc3b5aa7", vector, None)
    left = files()
    assert any(trace in left for trace in gone)
    gallery.close()
    with Gallery(address) as again:
        assert names(again.people()) == ["Another"]
        left = files()
    assert [trace for trace in gone if trace in left] == []


def test_a_reader_in_the_way_is_told_and_the_rest_done_later(gallery, address, files, enrol, monkeypatch):
    enrol(gallery, "Somebody 0c1d2e3f4a5b", [1, 0])
    with Gallery(address) as other:
        with other._backend.engine.connect() as reading, monkeypatch.context() as hurried:
            hurried.setattr(sys.modules[type(gallery._backend).__module__], "READERS", 0.1)
            if isinstance(address, str):
                reading = reading.execution_options(isolation_level="REPEATABLE READ")
            reading.execute(sqlalchemy.select(PEOPLE.c.id)).all()
            with pytest.warns(ResidueWarning, match="It is removed, and bytes of it may be left"):
                gallery.remove("Somebody 0c1d2e3f4a5b")
            assert "tried again" in gallery.residue
            assert gallery.people() == []
        enrol(gallery, "Bob", [1, 0])
        gallery.remove("Bob")
        assert gallery.residue is None
        assert b"0c1d2e3f4a5b" not in files()


# Many at once, and killed


@pytest.mark.filterwarnings("error")
def test_threads_share_a_gallery(gallery, enrol):
    enrol(gallery, "common", [1.0, 0, 0, 0])
    numbers = np.random.default_rng(2).normal(size=(6, 10, 4))
    stop = threading.Event()

    def look():
        while not stop.is_set():
            [found] = gallery.search(np.array([[1.0, 0, 0, 0]]), "model-a", top=3)
            assert found[0].person.name == "common"
            assert found[0].score == 1.0

    def enter(worker):
        for number, vector in enumerate(numbers[worker]):
            enrol(gallery, f"{worker} {number}", vector)
            if number % 5 == 4:
                gallery.remove(f"{worker} {number}")

    with ThreadPoolExecutor(8) as pool:
        looking = [pool.submit(look) for _ in range(2)]
        entering = [pool.submit(enter, worker) for worker in range(6)]
        try:
            for each in entering:
                each.result()
        finally:
            stop.set()
        for each in looking:
            each.result()
    assert len(gallery.people()) == 6 * 8 + 1
    query = numbers[3, 0]
    assert gallery.search(query[None], "model-a")[0][0].person.name == "3 0"


@pytest.mark.parametrize("times", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_a_kill_during_enrolment_loses_nobody(address, times):
    delays = random.Random(times)
    acknowledged = []
    for attempt in range(times):
        command = [sys.executable, mixing.__file__, str(address), str(attempt), "300"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            # Counted in people, not in time: a busy machine enrols few in any time.
            acknowledged += [process.stdout.readline().strip() for _ in range(delays.randint(1, 4))]
            time.sleep(delays.uniform(0, 0.02))
            process.kill()
            # A line without its end was not acknowledged.
            acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
        assert process.returncode == -9
    with Gallery(address) as gallery:
        present = set(names(gallery.people()))
        assert set(acknowledged) <= present
        assert len(acknowledged) >= times
        assert len(present) <= len(acknowledged) + times  # at most the one in hand was not told
        assert all(person.photos == 1 for person in gallery.people())
        assert len(gallery.export()["people"]) == len(present)  # every checksum is right
        assert len(gallery.search(np.ones((1, 300)), "model-a", top=len(present))[0]) == len(present)
    if not isinstance(address, str):
        with sqlite3.connect(address) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


@pytest.mark.parametrize(("processes", "operations"), [(3, 12), pytest.param(8, 200, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("error")
def test_many_processes_end_as_one_after_the_other(address, processes, operations):
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        told = list(pool.map(mixing.mix, [address] * processes, range(processes), [operations] * processes))
    expected = {name: photos for own, _, _ in told for name, photos in own.items()}
    with Gallery(address) as gallery:
        found = {person.name: person.photos for person in gallery.people()}
        shared = [found.pop(name) for name in mixing.SHARED if name in found]
        assert sum(won for _, won, _ in told) == len(shared)  # each name was won once
        assert shared == [1] * len(shared)
        assert found.pop(mixing.COMMON) == sum(added for _, _, added in told)
        assert found == expected
        gallery.export()
        everybody = gallery.search(np.ones((1, 8)), "model-a", top=10_000)[0]
        assert len(everybody) == len(gallery.people())


# Any operations in any order, against a dictionary

POOL = ["Ada", "Bob", "Cid", "Dée", "<b>", "ليلى"]
NAME, VECTOR = st.sampled_from(POOL), st.tuples(*[st.integers(-3, 3)] * 3).filter(any)


class Operations(RuleBasedStateMachine):
    """A gallery and what should be in it: the vectors of each person, by name."""

    address = None

    def __init__(self):
        super().__init__()
        self.gallery = Gallery(self.address)
        self.gallery.erase()
        self.people = {}

    def teardown(self):
        self.gallery.close()

    def expect(self, works, call):
        if works:
            return call()
        with pytest.raises(UsageError):
            call()
        return None

    @rule(name=NAME, vector=VECTOR, add=st.booleans())
    def enrol(self, name, vector, add):
        template = Template(np.array(vector, np.float32), "model-a")
        agreed = {"consent": True, "retain_until": today() + timedelta(days=3), "add": add}
        works = add or name not in self.people
        self.expect(works, lambda: self.gallery.enrol(name, [template], **agreed))
        if works:
            self.people.setdefault(name, []).append(vector)

    @rule(name=NAME, new=NAME)
    def rename(self, name, new):
        works = name in self.people and (new not in self.people or new == name)
        self.expect(works, lambda: self.gallery.rename(name, new))
        if works:
            self.people[new] = self.people.pop(name)

    @rule(name=NAME, into=NAME)
    def merge(self, name, into):
        works = name in self.people and into in self.people and name != into
        self.expect(works, lambda: self.gallery.merge(name, into))
        if works:
            self.people[into] += self.people.pop(name)

    @rule(name=NAME)
    def remove(self, name):
        works = name in self.people
        self.expect(works, lambda: self.gallery.remove(name))
        self.people.pop(name, None)

    @rule()
    def reopen(self):
        self.gallery.close()
        self.gallery = Gallery(self.address)

    @rule(vector=VECTOR)
    def search(self, vector):
        [found] = self.gallery.search(np.array([vector], float), "model-a", top=3)
        expected = best_by_hand(self.people, np.array(vector, float), len(self.people))
        scores = dict(expected)
        assert [each.score for each in found] == pytest.approx([score for _, score in expected[:3]], abs=1e-6)
        assert all(each.score == pytest.approx(scores[each.person.name], abs=1e-6) for each in found)

    @invariant()
    def same_people(self):
        assert {person.name: person.photos for person in self.gallery.people()} == {
            name: len(vectors) for name, vectors in self.people.items()
        }


@pytest.mark.parametrize("examples", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_any_operations_are_those_on_a_dictionary(address, examples):
    machine = type("OperationsHere", (Operations,), {"address": address})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=15, deadline=None)
    )
