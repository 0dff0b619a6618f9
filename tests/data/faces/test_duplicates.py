import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facemae.data.faces import duplicates
from facemae.data.faces.duplicates import MIN_CONTRAST, near_embeddings, near_pairs, perceptual_hash


def bits_apart(one, other):
    return np.bitwise_count(np.frombuffer(one, np.uint8) ^ np.frombuffer(other, np.uint8)).sum()


def brute_force(first, second, bits):
    distances = np.bitwise_count(first[:, None] ^ second[None]).sum(axis=2, dtype=np.int64)
    pairs = np.argwhere(distances <= bits)
    return pairs, distances[tuple(pairs.T)]


def flipped(hashes, random, most):
    """The hashes, each with up to `most` random bits turned over."""
    bits = np.unpackbits(hashes, axis=1)
    for row in bits:
        places = random.choice(256, random.integers(most + 1), replace=False)
        row[places] ^= 1
    return np.packbits(bits, axis=1)


# --- near pairs ---


@given(
    bits=st.integers(0, 31), seed=st.integers(0, 10_000), n=st.integers(0, 30), m=st.integers(0, 60),
    distinct=st.integers(1, 8),
)  # fmt: skip
def test_near_pairs_are_those_of_brute_force(bits, seed, n, m, distinct):
    random = np.random.default_rng(seed)
    seeds = random.integers(0, 256, (distinct, 32), dtype=np.uint8)
    first = flipped(seeds[random.integers(distinct, size=n)], random, bits)
    second = flipped(seeds[random.integers(distinct, size=m)], random, bits + 1)
    pairs, distances = near_pairs(first, second, bits)
    expected, apart = brute_force(first, second, bits)
    np.testing.assert_array_equal(pairs, expected)
    np.testing.assert_array_equal(distances, apart)


@pytest.mark.parametrize("bits", [0, 15, 16, 31])
def test_a_pair_whose_bits_spread_evenly_over_the_bands_is_found(bits):
    """The worst case of the pigeonhole: no band agrees more than it must."""
    first = np.zeros((1, 256), np.uint8)
    second = first.copy()
    second[0, [16 * (k % 16) + k // 16 for k in range(bits)]] = 1
    pairs, distances = near_pairs(np.packbits(first, axis=1), np.packbits(second, axis=1), bits)
    assert pairs.tolist() == [[0, 0]]
    assert distances.tolist() == [bits]
    if bits:
        assert len(near_pairs(np.packbits(first, axis=1), np.packbits(second, axis=1), bits - 1)[0]) == 0


def test_a_crowd_of_equal_hashes_is_compared_in_blocks(monkeypatch):
    sizes = []
    count = duplicates._candidates

    def counted(begins, ends):
        for block in count(begins, ends):
            sizes.append(len(block[0]))
            yield block

    monkeypatch.setattr(duplicates, "_CANDIDATES", 1000)
    monkeypatch.setattr(duplicates, "_candidates", counted)
    crowd = np.full((90, 32), 7, np.uint8)
    pairs, distances = near_pairs(crowd, crowd, 3)
    assert len(pairs) == len(np.unique(pairs, axis=0)) == 90 * 90
    assert not distances.any()
    assert max(sizes) == 1000


# --- near embeddings ---


@given(seed=st.integers(0, 10_000), n=st.integers(0, 20), m=st.integers(0, 40), products=st.integers(1, 99))
def test_near_embeddings_are_those_of_brute_force(seed, n, m, products):
    random = np.random.default_rng(seed)
    first, second = random.normal(size=(n, 3)), random.normal(size=(m, 3)) * 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_PRODUCTS", products)
        pairs, similarities = near_embeddings(first, second, 0.8)
    lengths = np.linalg.norm(first, axis=1)[:, None] * np.linalg.norm(second, axis=1)
    cosines = first @ second.T / lengths
    clear = np.abs(cosines - 0.8) > 1e-5  # float32 may round across the limit
    expected = {tuple(pair) for pair in np.argwhere((cosines >= 0.8) & clear)}
    assert {tuple(pair) for pair in pairs if clear[tuple(pair)]} == expected
    np.testing.assert_allclose(similarities, cosines[tuple(pairs.T)], atol=1e-5)


def test_an_embedding_of_length_zero_is_like_none():
    pairs, _ = near_embeddings(np.zeros((1, 4)), np.array([[0.0] * 4, [1.0] * 4]), 0.01)
    assert len(pairs) == 0


# --- the hash ---


def re_encoded(image, quality):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def scaled(image, factor):
    small = Image.fromarray(image).resize([round(side * factor) for side in image.shape[:2]])
    return np.asarray(small.resize(image.shape[:2]))


CHANGES = {
    "JPEG 50": lambda face: re_encoded(face, 50),
    "half the size": lambda face: scaled(face, 0.5),
    "twice the size": lambda face: scaled(face, 2),
    "darker": lambda face: (face * 0.8).astype(np.uint8),
}


@pytest.fixture
def faces(orl_images):
    return [np.asarray(Image.fromarray(face).resize((112, 112))) for face in orl_images]


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_face_changed_stays_near_and_other_photos_do_not(faces, change):
    hashes = [perceptual_hash(face) for face in faces]
    again = [perceptual_hash(CHANGES[change](face)) for face in faces]
    same = [bits_apart(one, other) for one, other in zip(hashes, again, strict=True)]
    others = [bits_apart(one, other) for k, one in enumerate(hashes) for other in again[:k]]
    assert max(same) <= 15
    assert min(others) > 31


def test_a_face_without_contrast_has_no_hash():
    random = np.random.default_rng(0)
    noise = random.normal(size=(112, 112, 1)).repeat(3, axis=2)
    faint, clear = (
        (100 + noise * MIN_CONTRAST * factor).clip(0, 255).astype(np.uint8) for factor in (0.9, 1.1)
    )
    assert perceptual_hash(np.zeros((112, 112, 3), np.uint8)) == perceptual_hash(faint) == b""
    assert len(perceptual_hash(clear)) == 32
