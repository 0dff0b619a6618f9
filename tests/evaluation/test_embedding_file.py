"""Files of embeddings and pairs that others wrote, good and bad."""

import io
import re
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facemae.core import files
from facemae.core.errors import DataError, FaceMAEError, IntegrityError, UsageError
from facemae.evaluation import embedding_file as module
from facemae.evaluation.embedding_file import (
    from_table,
    read_embeddings,
    read_pairs,
    sidecar,
)


def table(count=6, size=4, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)
    names = [f"p{n // 2}/{n % 2}" for n in range(count)]
    people = [name.partition("/")[0] for name in names]
    return pd.DataFrame({"sample_id": names, "person": people, "embedding": list(vectors)})


def parquet(folder, content):
    path = folder / "e.parquet"
    content.to_parquet(path)
    return path


# --- what can be read ---


def test_parquet_and_npz_say_the_same(tmp_path):
    content = table()
    np.savez(
        tmp_path / "e.npz",
        sample_id=np.array(content["sample_id"].to_list()),
        person=np.array(content["person"].to_list()),
        embedding=np.stack(content["embedding"]),
    )
    first, other = (read_embeddings(tmp_path / "e.npz"), read_embeddings(parquet(tmp_path, content)))
    for each in (first, other):
        assert each.sample_ids == content["sample_id"].to_list()
        assert each.people == content["person"].to_list()
        np.testing.assert_array_equal(each.vectors, np.stack(content["embedding"]))
        assert each.vectors.dtype == np.float32


def test_whole_numbers_and_half_precision_are_embeddings_too():
    for kind in (np.int8, np.float16, np.float64):
        rows = [np.array([1, 2], kind), np.array([3, 4], kind)]
        found = from_table(pd.DataFrame({"sample_id": [1, 2], "embedding": rows}), "E")
        assert found.vectors.tolist() == [[1, 2], [3, 4]]
        assert (found.sample_ids, found.people) == (["1", "2"], [None, None])


def test_photos_without_a_face_are_null_or_listed_beside(tmp_path):
    content = table()
    content.at[2, "embedding"] = None
    path = parquet(tmp_path, content)
    files.write_json(sidecar(path), {"without_face": ["x/1", {"sample_id": "x/2", "person": "x"}]})
    found = read_embeddings(path)
    assert len(found.sample_ids) == len(found.vectors) == 5
    assert found.without_face == {"x/1": None, "x/2": "x", "p1/0": "p1"}


def test_empty_people_and_groups_are_unknown():
    content = table().assign(group=["a", "a", None, "", "b", "b"])
    content.loc[[0, 1], "person"] = ["", None]
    found = from_table(content, "E")
    assert found.people == [None, None, "p1", "p1", "p2", "p2"]
    assert found.groups == {"p2": "b"}


# --- what cannot ---


def broken(change):
    content = table()
    return {
        "no sample_id": content.drop(columns="sample_id"),
        "no embedding": content.drop(columns="embedding"),
        "unnamed": content.assign(sample_id=[None, *content["sample_id"][1:]]),
        "twice": pd.concat([content, content[:1]]),
        "models": content.assign(model=["a"] * 3 + ["b"] * 3),
        "parts": content.assign(part=[0] * 3 + [1] * 3),
        "lengths": pd.concat([content, pd.DataFrame({"sample_id": ["q"], "embedding": [np.ones(3)]})]),
        "nan": content.assign(embedding=[np.full(4, np.nan, np.float32), *content["embedding"][1:]]),
        "infinite": content.assign(embedding=[np.full(4, np.inf, np.float32), *content["embedding"][1:]]),
        "zero": content.assign(embedding=[*content["embedding"][:5], np.zeros(4, np.float32)]),
        "text": content.assign(embedding=[["a"]] * 6),
        "scalar": content.assign(embedding=1.5),
        "empty": content[:0],
        "all null": content.assign(embedding=None),
        "group empty": content.assign(group=""),
        "two groups": content.assign(group=list("ababab")),
    }[change]


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ("no sample_id", IntegrityError, "lacks the column sample_id; its columns are person, embedding"),
        ("no embedding", IntegrityError, "lacks the column embedding"),
        ("unnamed", IntegrityError, "a row without a sample_id"),
        ("twice", IntegrityError, "holds p0/0 twice"),
        ("models", IntegrityError, "mixes embeddings of 2 models (a, b)"),
        ("parts", IntegrityError, "2 parts, each embedded by a network of its own"),
        ("lengths", IntegrityError, "of 4 numbers (p2/1) and of 3 (q)"),
        ("nan", IntegrityError, "zero or not finite (p0/0)"),
        ("infinite", IntegrityError, "zero or not finite (p0/0)"),
        ("zero", IntegrityError, "zero or not finite (p2/1)"),
        ("text", IntegrityError, "not a list of numbers"),
        ("scalar", IntegrityError, "not lists of numbers"),
        ("empty", DataError, "holds no embedding"),
        ("all null", DataError, "holds no embedding"),
        ("group empty", DataError, "column group that is empty"),
        ("two groups", IntegrityError, "puts p0 into 2 groups"),
    ],
)
def test_tables_that_no_single_model_can_have_made(tmp_path, change, error, told):
    with pytest.raises(error) as caught:
        read_embeddings(parquet(tmp_path, broken(change)))
    assert told in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def npz(folder, **arrays):
    path = folder / "e.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("kind", ["text", "empty", "array", "pickled", "cut", "damaged", "lengths", "matrix"])
def test_npz_files_that_are_none(tmp_path, kind, capsys):
    ids, vectors = np.array(["a", "b"]), np.ones((2, 3))
    path = tmp_path / "e.npz"
    if kind in ("text", "empty"):
        path.write_bytes(b"hello" if kind == "text" else b"")
    elif kind == "array":
        buffer = io.BytesIO()
        np.save(buffer, vectors)
        path.write_bytes(buffer.getvalue())
    elif kind == "pickled":
        npz(tmp_path, sample_id=ids, embedding=np.array([Evil(), Evil()], dtype=object))
    elif kind == "matrix":
        npz(tmp_path, sample_id=ids, embedding=np.ones((2, 3, 3)))
    else:
        npz(tmp_path, sample_id=ids, embedding=vectors[:1] if kind == "lengths" else vectors)
        content = bytearray(path.read_bytes())
        if kind == "damaged":
            content[150] ^= 255
        path.write_bytes(content[: len(content) // 2] if kind == "cut" else content)
    with pytest.raises(FaceMAEError) as caught:
        read_embeddings(path)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    assert "run" not in capsys.readouterr().out


def test_parquet_that_is_none_and_files_of_another_kind(tmp_path):
    (tmp_path / "e.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(IntegrityError, match="cannot be read as Parquet"):
        read_embeddings(tmp_path / "e.parquet")
    with pytest.raises(UsageError, match=r"neither \.parquet nor \.npz"):
        read_embeddings(tmp_path / "e.pkl")
    with pytest.raises(FileNotFoundError):
        read_embeddings(tmp_path / "none.parquet")


@pytest.mark.parametrize("content", ["{", "[]", '{"without_face": "a"}', '{"without_face": [1]}'])
def test_a_damaged_file_beside_the_embeddings_is_told(tmp_path, content):
    path = parquet(tmp_path, table())
    sidecar(path).write_text(content)
    with pytest.raises(IntegrityError, match=r"e\.parquet\.json"):
        read_embeddings(path)


# --- lists of pairs ---


def test_pairs_in_every_spelling(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text(
        "\ufefffirst,second,genuine,fold\na,b,1,x\na,c, True,y\na,d,SAME,x\n"
        "b,c,0,y\nb,d,false,x\nNA,null,different,y\n",
        encoding="utf-8",
    )
    found = read_pairs(path)
    assert found["genuine"].to_list() == [True] * 3 + [False] * 3
    assert found["fold"].to_list() == [0, 1] * 3
    assert found.iloc[5][["first", "second"]].to_list() == ["NA", "null"]
    path.write_text("second,first,genuine\nb,a,1\n")
    assert read_pairs(path)["fold"].to_list() == [0]
    path.write_text("second,first,genuine,fold\nb,a,1,10.0\nb,c,1,2\nb,d,1,2.0\n")
    assert read_pairs(path)["fold"].to_list() == [1, 0, 0]


@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        ("first,second\na,b\n", IntegrityError, "a column same is needed, and it names first, second"),
        ("first,second,genuine\n", DataError, "holds no pair"),
        ("first,second,same\na,b,1\na,c,maybe\n", IntegrityError, "line 3: same is 'maybe'"),
        (
            "first,second,same\na,b,1\nb,a,0\n",
            IntegrityError,
            "line 3: 'a' and 'b' are listed as same and as",
        ),
        ("first,second,same,genuine\na,b,1,0\n", IntegrityError, "two names of one column"),
        ("first,second,second,same\na,b,c,1\n", IntegrityError, "the column second is there twice"),
        ("first,second,same,fold\na,b,1,x\na,c,1,\n", IntegrityError, "line 3: some lines have a fold"),
    ],
)
def test_lists_that_cannot_be_understood(tmp_path, text, error, told):
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    with pytest.raises(error) as caught:
        read_pairs(path)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_that_a_folder_of_photos_holds_is_taken(tmp_path):
    (tmp_path / "pairs.csv").write_bytes(b"first,second,same\na,b,yes\na,\xff,no\n")
    found = read_pairs(tmp_path / "pairs.csv")
    assert found.to_numpy().tolist() == [["a", "b", True, 0], ["a", "\\udcff", False, 0]]


@pytest.mark.parametrize("kind", ["numbers", "text"])
def test_a_person_who_is_not_known_is_nobody(tmp_path, kind):
    person = np.array([1.0, np.nan, 1.0, np.nan])
    if kind == "text":
        person = np.array(["Nan", "nan", "Nan", "<NA>"])
    content = {"sample_id": np.array(list("abcd")), "person": person}
    np.savez(tmp_path / "e.npz", **content, embedding=np.eye(4))
    as_table = parquet(tmp_path, pd.DataFrame(content).assign(embedding=list(np.eye(4))))
    for path in (tmp_path / "e.npz", as_table):
        read = read_embeddings(path)
        assert read.people == [{"numbers": "1", "text": "Nan"}[kind], None] * 2


def test_a_name_that_looks_like_nobody_is_told_and_is_one_where_the_file_beside_says_so(tmp_path, capsys):
    content = table().assign(person=["null", "nan", "NaN", "None", "Ada", ""], group="g")
    listed = [{"sample_id": "lost", "person": "none"}, {"sample_id": "gone", "person": None}, "away"]
    path = parquet(tmp_path, content)
    assert read_embeddings(path).people == [None] * 4 + ["Ada", None]
    assert "4 rows" in (told := capsys.readouterr().err)
    assert "NaN, None, nan, null" in told
    files.write_json(sidecar(path), {"plain_names": True, "without_face": listed})
    read = read_embeddings(path)
    assert read.people == ["null", "nan", "NaN", "None", "Ada", None]
    assert set(read.groups) == set(read.people) - {None}
    assert read.without_face == {"lost": "none", "gone": None, "away": None}
    assert capsys.readouterr().err == ""


def test_people_have_one_name_in_every_kind_of_file(tmp_path):
    """Empty cells must not turn numbers into others; 2**53 and the next are one in floating point."""
    whole = pa.array([2**53, 2**53 + 1, None], pa.int64())
    for person, people in [
        (whole, [str(2**53), str(2**53 + 1), None]),
        (pa.array([b"Jos\xc3\xa9", b"b", None]), ["José", "b", None]),
        (pa.array(["1", "b", "null"]), ["1", "b", None]),
    ]:
        rows = {"sample_id": pa.array([1.0, 2.0, 3.0]), "person": person, "embedding": np.eye(3).tolist()}
        pq.write_table(pa.table(rows), tmp_path / "e.parquet")
        read = read_embeddings(tmp_path / "e.parquet")
        assert (read.sample_ids, read.people) == (["1", "2", "3"], people)


@pytest.mark.parametrize("name", ["sample_id", "person", "group"])
def test_names_that_are_lists_or_bytes_are_told(name):
    for bad in (["a", "b"], b"\xff"):
        content = table().assign(group="g")
        content[name] = [bad] * len(content)
        with pytest.raises(IntegrityError, match=f"E: {name} holds .* where text is needed"):
            from_table(content, "E")


@pytest.mark.parametrize("kind", [np.complex64, "datetime64[D]", str])
def test_numbers_that_would_lose_something_are_no_embedding(kind):
    content = table()
    content["embedding"] = list(np.ones((len(content), 4)).astype(int).astype(kind))
    with pytest.raises(IntegrityError, match="not a list of numbers"):
        from_table(content, "E")


def npz_of(path, header):
    """Write an archive with an array that has this header and 16 numbers."""
    length = len(header).to_bytes(2, "little")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("embedding.npy", b"\x93NUMPY\1\0" + length + header.encode() + bytes(64))


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("(" * 3000, "EOF"),
        ("{'descr': '<U0', 'fortran_order': False, 'shape': (10**12,), }", "claims 1000000000000 bytes"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (10**12, 0), }", "claims 4000000000000 bytes"),
    ],
)
def test_headers_that_would_take_all_memory_are_refused(tmp_path, header, told):
    npz_of(tmp_path / "e.npz", header.replace("10**12", str(10**12)))
    with pytest.raises(IntegrityError, match=told):
        read_embeddings(tmp_path / "e.npz")


@pytest.mark.parametrize(("place", "value"), [((8, 6), 1), ((10, 8), 9), ((10, 8), 12)])
def test_npz_parts_that_cannot_be_unpacked_are_refused(tmp_path, place, value):
    """One is encrypted, one compressed by deflate64 and one not by the bzip2 that it names."""
    np.savez(tmp_path / "e.npz", sample_id=np.array(["a"]), embedding=np.eye(1))
    data = bytearray((tmp_path / "e.npz").read_bytes())
    for magic, offset in zip((b"PK\1\2", b"PK\3\4"), place, strict=True):
        for found in re.finditer(re.escape(magic), bytes(data)):
            data[found.start() + offset] = value
    (tmp_path / "e.npz").write_bytes(data)
    with pytest.raises(IntegrityError, match="write it again"):
        read_embeddings(tmp_path / "e.npz")


def test_two_arrays_of_one_name_are_refused(tmp_path):
    np.savez(tmp_path / "e.npz", sample_id=np.array(["a"]), embedding=np.eye(1))
    with zipfile.ZipFile(tmp_path / "e.npz", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("embedding.npy", archive.read("embedding.npy"))
    with pytest.raises(IntegrityError, match="two arrays have one name"):
        read_embeddings(tmp_path / "e.npz")


def test_parquet_that_repeats_a_value_beyond_memory_is_refused(tmp_path):
    rows = pa.table({"sample_id": [str(n) for n in range(500)], "embedding": [[1.0] * 20_000] * 500})
    pq.write_table(rows, tmp_path / "e.parquet")
    with pytest.raises(IntegrityError, match="it claims 10000500 values in"):
        read_embeddings(tmp_path / "e.parquet")


def test_many_arrays_or_columns_are_refused_before_one_is_opened(tmp_path, monkeypatch):
    columns = {f"c{n}": np.zeros(1) for n in range(200)}
    np.savez(tmp_path / "e.npz", **columns)
    monkeypatch.setattr(np.lib.format, "read_magic", lambda file: pytest.fail("an array was opened"))
    with pytest.raises(IntegrityError, match="over 100 arrays, the limit"):
        read_embeddings(tmp_path / "e.npz")
    with pytest.raises(IntegrityError, match="over 100 columns, the limit"):
        read_embeddings(parquet(tmp_path, pd.DataFrame(columns)))


def test_no_zip_is_read_as_npz(tmp_path):
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive:
        archive.writestr("embedding", "no array")
        archive.writestr("sample_id", "no array")
    with pytest.raises(IntegrityError):
        read_embeddings(tmp_path / "e.npz")


def test_an_npz_that_claims_more_than_it_has_is_refused_before_it_is_read(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 512)}
    )
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive:
        archive.writestr("embedding.npy", header.getvalue() + bytes(64))
    with pytest.raises(IntegrityError, match=r"embedding\.npy claims 2048000000000 bytes and has"):
        read_embeddings(tmp_path / "e.npz")


def test_an_npz_that_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_UNCHECKED", 2**16)
    ids = np.array([f"p{n}" for n in range(500)])
    np.savez_compressed(tmp_path / "e.npz", sample_id=ids, embedding=np.zeros((500, 512)))
    with pytest.raises(IntegrityError, match="more than 100 times the file"):
        read_embeddings(tmp_path / "e.npz")


def test_parquet_that_claims_more_rows_than_bytes_is_refused(tmp_path):
    pd.DataFrame({"sample_id": ["a"] * 300_000}).to_parquet(tmp_path / "e.parquet")
    assert (tmp_path / "e.parquet").stat().st_size < 300_000
    with pytest.raises(IntegrityError, match="it claims 300000 rows in"):
        read_embeddings(tmp_path / "e.parquet")
