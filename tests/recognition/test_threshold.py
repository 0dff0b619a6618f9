import numpy as np
import pandas as pd
import pytest

from facemae.core import layout, records
from facemae.core.errors import DataError, IntegrityError, UsageError
from facemae.recognition.threshold import Threshold, at_rate, card_of, rates

PEOPLE, SHOTS = 30, 3


def write(path, part=0, people=PEOPLE, noise=0.4):
    random = np.random.default_rng(part)
    identity = np.repeat(np.arange(people), SHOTS)
    vectors = np.eye(people)[identity] + noise * random.normal(size=(len(identity), people))
    table = pd.DataFrame(
        {
            "sample_id": [f"{part}/{n}" for n in range(len(identity))],
            "person": [f"{part}/{each}" for each in identity],
            "part": part,
            "embedding": list(vectors.astype(np.float32)),
        }
    )
    records.write_table(path, table, layout.EMBEDDING_COLUMNS)
    return table


def test_the_threshold_lets_the_wanted_share_of_impostors_pass(tmp_path):
    table = write(tmp_path / "embeddings.parquet")
    card, people = card_of(tmp_path / "embeddings.parquet")
    threshold = at_rate(card, people, 0.01)
    unit = np.stack(table["embedding"])
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    score = unit @ unit.T
    names = table["person"].to_numpy()
    upper = np.triu(np.ones_like(score, bool), 1)
    same = names[:, None] == names[None, :]
    impostors, genuine = score[upper & ~same], score[upper & same]
    assert threshold.people == people == PEOPLE
    assert threshold.fmr == pytest.approx((impostors >= threshold.score).mean(), abs=1e-9)
    assert threshold.fmr <= 0.01
    assert threshold.fnmr == pytest.approx((genuine < threshold.score).mean(), abs=1e-9)
    assert threshold.fmr_low <= threshold.fmr <= threshold.fmr_high


def test_only_the_first_part_counts_since_others_have_networks_of_their_own(tmp_path):
    one, other = write(tmp_path / "one.parquet"), write(tmp_path / "other.parquet", part=1, noise=3.0)
    records.write_table(tmp_path / "both.parquet", pd.concat([other, one]), layout.EMBEDDING_COLUMNS)
    alone, _ = card_of(tmp_path / "one.parquet")
    both, _ = card_of(tmp_path / "both.parquet")
    pd.testing.assert_frame_equal(alone, both)


def test_a_rate_between_two_of_the_card_takes_the_stricter(tmp_path):
    write(tmp_path / "embeddings.parquet")
    card, people = card_of(tmp_path / "embeddings.parquet")
    assert at_rate(card, people, 0.05) == at_rate(card, people, 0.01)
    assert at_rate(card, people, 0.1).score < at_rate(card, people, 0.05).score


def test_a_rate_beyond_the_data_takes_the_strictest_they_can_speak_of(tmp_path):
    write(tmp_path / "embeddings.parquet")
    card, people = card_of(tmp_path / "embeddings.parquet")
    supported = rates(card, people)
    assert list(supported) == [0.1, 0.01]  # 3,915 impostor pairs: 0.001 needs 30,000
    assert at_rate(card, people, 1e-5) == supported[0.01]


def test_a_rate_that_was_asked_for_is_refused_where_the_data_cannot_tell_it(tmp_path):
    write(tmp_path / "embeddings.parquet")
    card, people = card_of(tmp_path / "embeddings.parquet")
    assert at_rate(card, people, 0.01, strictly=True) == at_rate(card, people, 0.01)
    for rate in (0.001, 0.0):
        with pytest.raises(
            UsageError, match=r"cannot be measured .*30000 impostor pairs.*; ask for 0\.01 or more"
        ):
            at_rate(card, people, rate, strictly=True)


def test_too_few_people_give_no_threshold(tmp_path):
    write(tmp_path / "few.parquet", people=3)
    with pytest.raises(UsageError, match="give one with --threshold"):
        at_rate(*card_of(tmp_path / "few.parquet"), 0.1)
    write(tmp_path / "one.parquet", people=1)
    with pytest.raises(IntegrityError, match="fewer than two people"):
        card_of(tmp_path / "one.parquet")
    with pytest.raises(DataError, match="give one with --threshold"):
        card_of(tmp_path / "none.parquet")


def test_the_chance_of_a_false_alarm_grows_with_the_gallery():
    threshold = Threshold(0.5, fmr=0.01)
    assert threshold.false_alarm(1) == pytest.approx(0.01)
    assert threshold.false_alarm(50) == pytest.approx(1 - 0.99**50)
    assert threshold.false_alarm(0) == 0
    assert Threshold(0.5).false_alarm(10) is None


def test_a_score_at_the_threshold_is_a_match():
    assert Threshold(0.5).matches(0.5)
    assert not Threshold(0.5).matches(np.nextafter(0.5, 0))
