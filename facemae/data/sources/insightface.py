"""InsightFace's packs: aligned faces of many data sets in one file each, for training and for verification.

The faces are aligned to ArcFace's template at 112 x 112 pixels, so no face is looked for. What people are
called is lost: in a training pack they are numbers, and a verification pack only says which pairs match.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from facemae.core.errors import IntegrityError
from facemae.data.sources import packs
from facemae.data.sources.base import Pair, Photo, Place, Source
from facemae.data.sources.listing import as_text

ADDRESS = "https://github.com/deepinsight/insightface/tree/master/recognition/_datasets_"
FOLDS = 10

_LICENCE = "non-commercial research only, as InsightFace offers it; the data set's own terms apply as well"
_UNKNOWN_LICENCE = "that of the data set in the pack; InsightFace's are for non-commercial research only"
_WITHDRAWN = (
    f"{_LICENCE}; made from MS-Celeb-1M, which Microsoft withdrew in 2019, so check whether you may use it"
)


def rec_source(path: Path) -> Source:
    """Return the source of any other training pack: a `.rec` file of MXNet."""
    name = as_text(path.absolute().parent.name if path.stem == "train" else path.stem)
    return _training(name, f"training pack {name}", file=path.name)


def bin_source(path: Path) -> Source:
    """Return the source of any other verification pack: a `.bin` file of InsightFace."""
    name = as_text(path.stem)
    return _verification(name, f"verification pack {name}", path.name)


def _training(
    name: str,
    title: str,
    authors: str = "",
    pack: str = "the pack",
    licence: str = _UNKNOWN_LICENCE,
    images: int | None = None,
    people: int | None = None,
    file: str = "train.rec",
) -> Source:
    return _source(
        name,
        title,
        authors,
        licence,
        folder=name,
        images=file,
        photos=partial(_training_photos, name),
        how_to_get=f"Get {pack} from {ADDRESS} and put its train.rec, train.idx and property there.",
        published_images=images,
        published_people=people,
        sides=(Path(file).with_suffix(".idx").name, "property"),
    )


def _verification(
    name: str,
    title: str,
    file: str,
    images: int | None = None,
    authors: str = "",
    licence: str = _UNKNOWN_LICENCE,
) -> Source:
    return _source(
        name,
        title,
        authors,
        licence,
        folder="verification",
        images=file,
        photos=partial(_verification_photos, name),
        how_to_get=f"Get MS1M-ArcFace, which carries all of the verification packs, from {ADDRESS} and put "
        f"its {file} there.",
        published_images=images,
        convert=packs.unpack_bin,
        pairs=partial(_pairs, name),
    )


def _source(name: str, title: str, authors: str, licence: str, **facts: Any) -> Source:
    credit = f"{authors}; packed by InsightFace" if authors else "packed by InsightFace"
    return Source(name, title, licence=licence, credit=credit, address=ADDRESS, align="crop", **facts)


def _training_photos(name: str, place: Place, ignored: Counter[str]) -> Iterator[Photo]:
    index = place.sides.get(place.images.with_suffix(".idx").name)
    properties = place.sides.get("property")
    people = None if properties is None else packs.rec_people(properties)
    for record in packs.rec_images(place.images, index, ignored):
        if people is not None and record.identity >= people:
            raise IntegrityError(
                f"{properties} promises {people} people and record {record.number} of {place.images} shows "
                f"person {record.identity}, counted from 0; fetch both again, or remove {properties} if the "
                "pack is known to be whole, since it can be read without."
            )
        sample_id, person = f"{name}/{record.number:08}", f"{name}-{record.identity}"
        yield Photo(sample_id, person, place.images, record.offset, record.length)


def _verification_photos(name: str, place: Place, ignored: Counter[str]) -> Iterator[Photo]:
    images, places, *_ = packs.unpacked(place.images)
    for number, (offset, length) in enumerate(places):
        yield Photo(_sample_id(name, number), None, images, offset, length)


def _pairs(name: str, place: Place) -> Iterator[Pair]:
    *_, truths = packs.unpacked(place.images)
    for number, same in enumerate(truths):
        first, second = _sample_id(name, 2 * number), _sample_id(name, 2 * number + 1)
        yield Pair(name, number * FOLDS // len(truths), first, second, same)


def _sample_id(name: str, number: int) -> str:
    return f"{name}/{number:06}"


SOURCES: tuple[Source, ...] = (
    _training("casia-webface", "CASIA-WebFace", "Yi, Lei, Liao and Li, 2014",
              "CASIA-Webface (faces_webface_112x112)", _LICENCE, 490_623, 10_572),
    _training("ms1mv2", "MS1MV2",
              "Guo, Zhang, Hu, He and Gao, 2016; refined by Deng, Guo, Xue and Zafeiriou, 2019",
              "MS1M-ArcFace (faces_emore)", _WITHDRAWN, 5_822_653, 85_742),
    _training("ms1mv3", "MS1MV3", "Guo, Zhang, Hu, He and Gao, 2016; refined by InsightFace",
              "MS1M-RetinaFace (ms1m-retinaface-t1)", _WITHDRAWN, 5_179_510, 93_431),
    _training("vggface2", "VGGFace2", "Cao, Shen, Xie, Parkhi and Zisserman, 2018",
              "VGG2 (faces_vgg_112x112)", _LICENCE, None, 8_631),
    _training("glint360k", "Glint360K", "An, Zhu, Xiao, Wu, Zhang, Gao, Qin, Zhang and Fu, 2020",
              "Glint360K", _LICENCE, 17_091_657, 360_232),
    _verification("lfw-bin", "LFW, View 2", "lfw.bin", 12_000,
                  "Huang, Ramesh, Berg and Learned-Miller, 2007", _LICENCE),
    _verification("cfp-fp", "CFP-FP", "cfp_fp.bin", 14_000, "Sengupta and others, 2016", _LICENCE),
    _verification("agedb-30", "AgeDB-30", "agedb_30.bin", 12_000, "Moschoglou and others, 2017", _LICENCE),
    _verification("calfw", "CALFW", "calfw.bin", 12_000, "Zheng, Deng and Hu, 2017", _LICENCE),
    _verification("cplfw", "CPLFW", "cplfw.bin", 12_000, "Zheng and Deng, 2018", _LICENCE),
)  # fmt: skip
