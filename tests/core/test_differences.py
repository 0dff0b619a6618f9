from facemae.core.differences import ABSENT, differences


def test_both_values_stand_at_the_key_where_they_differ():
    one = {"mask": {"ratio": 0.75, "name": "block"}, "steps": 400, "views": None}
    other = {"mask": {"ratio": 0.5, "name": "block"}, "views": {"grey": 0.2}, "seed": 1}
    assert differences(one, other) == {
        "mask.ratio": (0.75, 0.5), "steps": (400, ABSENT),
        "views": (None, {"grey": 0.2}), "seed": (ABSENT, 1),
    }  # fmt: skip
    assert differences(one, one) == {}
    assert differences({"a": (1, 2)}, {"a": [1, 2]}) == {}  # as JSON knows them
