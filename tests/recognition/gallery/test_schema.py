import hashlib
import io
from datetime import date, datetime

import numpy as np
import pytest
from PIL import Image

from facemae.core.errors import UsageError
from facemae.recognition.gallery import schema
from facemae.recognition.gallery.schema import Template


def png(width, height):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def test_vectors_come_back_to_the_last_bit():
    vectors = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    vectors[0, :3] = [-0.0, np.finfo(np.float32).tiny / 8, np.finfo(np.float32).max]
    back = schema.unpacked([schema.packed(vector) for vector in vectors])
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back.view(np.uint32), vectors.view(np.uint32))
    assert schema.packed(np.array([1.0], np.float32)) == b"\x3f\x80\0\0"  # IEEE 754, first byte first


def test_a_checksum_is_of_every_field_its_type_and_its_place():
    blob = schema.packed(np.array([3.0, 4.0], np.float32))
    fields = (1, "abc", blob, 0.5, None, date(2026, 1, 2))
    expected = b"int 1 1str 3 abcbytes 8 \x40\x40\0\0\x40\x80\0\0float 20 0x1.0000000000000p-1NoneType 4 None"
    assert schema.digest(*fields) == hashlib.sha256(expected + b"date 10 2026-01-02").hexdigest()
    others = [("1", *fields[1:]), (1, "ab", b"c" + blob, *fields[3:]), (*fields[:4], "None", fields[5])]
    others.append((*fields[:5], datetime(2026, 1, 2)))
    assert len({schema.digest(*each) for each in (fields, *others)}) == 5


def test_units():
    np.testing.assert_array_equal(
        schema.units(np.array([[3, 4], [0, -9]])), np.float32([[0.6, 0.8], [0, -1]])
    )
    # Squares of these do not fit into float32.
    np.testing.assert_allclose(schema.units(np.float32([[1e30, 1e30]])), [[np.sqrt(0.5)] * 2], rtol=1e-6)
    np.testing.assert_allclose(schema.units(np.float32([[1e-30, 0]])), [[1, 0]])


@pytest.mark.parametrize("vectors", [
    np.zeros((1, 2)), [[np.nan, 1]], [[np.inf, 1]], np.ones(3), np.ones((2, 0)), np.ones((1, 16_001)),
    np.ones((1, 1, 1)),
])  # fmt: skip
def test_what_is_no_direction_is_refused(vectors):
    with pytest.raises(UsageError):
        schema.units(vectors)


@pytest.mark.parametrize(("given", "told"), [
    ({"vector": np.ones((2, 2), np.float32)}, "one row"),
    ({"model": ""}, "hash"),
    ({"model": "x" * 201}, "hash"),
    ({"model": "a'; --"}, "hash"),
    ({"model": "a\n"}, "hash"),
    ({"quality": float("nan")}, "finite"),
    ({"thumbnail": b"GIF89a" * 10}, "PNG"),
    ({"thumbnail": png(64, 64)[:20]}, "PNG"),
    ({"thumbnail": png(64, 64) + b"\0" * 70_000}, "PNG"),
    ({"thumbnail": png(65, 10)}, "65 x 10"),
    ({"thumbnail": png(10, 65)}, "10 x 65"),
])  # fmt: skip
def test_a_template_that_cannot_be_kept_is_refused(given, told):
    with pytest.raises(UsageError, match=told):
        schema.fit_template(Template(**{"vector": np.ones(2, np.float32), "model": "abc"} | given))


def test_a_template_that_fits():
    fitted = schema.fit_template(Template(np.float32([0, 2]), "a/b:c@1", 0.5, png(64, 64)))
    assert fitted.vector.tolist() == [0, 1]
    assert (fitted.model, fitted.quality, fitted.thumbnail) == ("a/b:c@1", 0.5, png(64, 64))
