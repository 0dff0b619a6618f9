"""The README's moving picture: a face that is painted over is completed, of results or of a photo."""

import io
import sys

import numpy as np
import pytest
import write_picture
from PIL import Image
from results_folder import make_results, photos_are_orls

from facemae.core.errors import UsageError
from facemae.core.layout import Results


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    make_results(folder)
    photos_are_orls(folder)
    return Results(folder).stage("random", 0, "pretrain")


def test_the_face_of_somebody_unseen_is_painted_over_and_completed(pretrained, tmp_path, monkeypatch):
    out = tmp_path / "painting.webp"
    monkeypatch.setattr(sys, "argv", ["write_picture", "--pretrain", str(pretrained), "--out", str(out)])
    write_picture.main()
    picture = Image.open(io.BytesIO(out.read_bytes()))
    assert picture.n_frames > 30
    first, last = (np.asarray(_frame(picture, n), int) for n in (0, picture.n_frames - 1))
    side = write_picture.SIDE
    for half in (slice(0, side), slice(side + write_picture.GAP, None)):  # masked, and completed
        changed = np.abs(first[:, half] - last[:, half]).max(axis=2) > 40
        assert changed[int(0.35 * side) : int(0.45 * side)].mean() > 0.1  # over the eyes
        assert changed[: int(0.2 * side)].mean() < 0.01
    assert np.abs(first[:, :side] - first[:, side + write_picture.GAP :]).mean() < 2


def _frame(picture, number):
    picture.seek(number)
    return picture.convert("RGB")


def test_a_face_that_the_results_do_not_hold_is_refused(pretrained):
    with pytest.raises(UsageError, match="holds no such face"):
        write_picture.sample(pretrained, "nobody/1")
