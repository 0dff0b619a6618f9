"""The gallery page: enrol people, see who is enrolled and until when, and delete them again."""

from __future__ import annotations

import base64
import html
import json
from typing import TYPE_CHECKING

import streamlit as st

from facemae.app import frame, session
from facemae.app.parts import enrol_people, group_faces
from facemae.app.parts.enrol_people import (
    FOLDER,
    NAME_LENGTH,
    SAID,
    UNSORTED,
    UPLOAD,
    WEBCAM,
    Where,
    done,
    key,
)

if TYPE_CHECKING:
    from facemae.recognition.gallery.schema import Person
    from facemae.recognition.gallery.store import Gallery

WORD = "ERASE"
MERGES = 10
SHOWN = 48  # people at a time
GRID = "display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:12px"
CARD = "padding:10px;border:1px solid #8886;border-radius:8px;overflow-wrap:anywhere"


def render() -> None:
    """Show the page."""
    st.title("Gallery")
    st.caption(
        "The people whom the Recognise page can name. Photos are not kept, only what a model makes of them."
    )
    with frame.explained(), session.refusals_shown():
        kept = session.gallery()
        where = Where(kept, session.choose_models("model", "Models that enrol, the first one decides"))
        _check_clock(kept)
        _numbers(where)
        _enrol(where)
        people = kept.people()
        if people:
            _people(kept, people)
            with session.refusals_shown():
                _merges(where)
            _erase(kept, len(people))


def _check_clock(kept: Gallery) -> None:
    """Ask about a clock that has jumped: it would delete everybody."""
    if kept.clock_warning:
        st.warning(kept.clock_warning, icon=":material/schedule:")
        if st.button("The clock is right: delete whose time is over", key="gallery_clock"):
            done(f"{kept.purge(confirmed=True)} people are deleted.")


def _numbers(where: Where) -> None:
    people, templates = where.gallery.people(), where.gallery.models()
    with st.container(horizontal=True, gap="large"):
        st.metric("People", f"{len(people):,}", width="content")
        st.metric("Templates", f"{sum(templates.values()):,}", width="content")
        for model in where.models:
            st.metric(f"By {model.name}", f"{templates.get(model.fingerprint, 0):,}", width="content")
    demo = session.offers_demo()
    if not people:
        or_demo = ", or try it with demo people:" if demo else "."
        st.info(f"Nobody is enrolled yet. Enrol somebody below{or_demo}", icon=":material/info:")
    if demo and st.button("Enrol the demo people", icon=":material/group_add:", key="gallery_demo"):
        with session.refusals_shown():
            count = session.enrol_demo(where.models[0])
            done(f"{count} demo people are enrolled." if count else "The demo people are enrolled already.")
    said = st.session_state.pop(SAID, None)
    with st.container():  # there also when empty: else what stands below would be drawn again, and close
        if said:
            st.toast("Done.", icon=":material/check:")
            st.success("Done.", icon=":material/check:")
            st.text(said)


def _enrol(where: Where) -> None:
    st.subheader("Enrol")
    enrol_people.show_refused(where)
    source = st.segmented_control(
        "From", [UPLOAD, WEBCAM, FOLDER, UNSORTED], default=UPLOAD, required=True, key="gallery_from"
    )
    if source == UNSORTED:
        group_faces.render(where)
    else:
        enrol_people.render(where, source)


# --- who is enrolled ---


def _people(kept: Gallery, people: list[Person]) -> None:
    st.subheader("Who is enrolled")
    text = st.text_input("Find", key="gallery_find", placeholder="a part of the name")
    shown = kept.find(text) if text else people
    more = st.session_state.setdefault(key("people_shown"), SHOWN)
    _grid(kept, shown[:more])
    if len(shown) > more and st.button("Show more people", key="people_more"):
        st.session_state[key("people_shown")] = more + SHOWN
        st.rerun()
    chosen = st.selectbox(
        "Rename, export or delete", shown, index=None, format_func=lambda each: each.name,
        placeholder="Choose a person", key=key("person"),
    )  # fmt: skip
    if chosen is not None:
        _person(kept, chosen)


def _grid(kept: Gallery, people: list[Person]) -> None:
    """Show people as cards: the picture that was kept or else initials, name, photos and last day."""
    pictures = kept.thumbnails(people)
    cards = "".join(_card(each, pictures.get(each.id)) for each in people)
    st.html(f'<div style="{GRID}">{cards}</div>')


def _card(person: Person, picture: bytes | None) -> str:
    box = "width:72px;height:72px;border-radius:8px;margin-bottom:6px"
    if picture:
        data = base64.b64encode(picture).decode()
        face = f'<img alt="" style="{box};display:block" src="data:image/png;base64,{data}">'
    else:
        look = f"{box};display:flex;align-items:center;justify-content:center;font-size:26px;background:#8884"
        face = f'<div aria-hidden="true" style="{look}">{html.escape(initials(person.name))}</div>'
    photos = f"{person.photos} photo{'' if person.photos == 1 else 's'}"
    return (
        f'<div style="{CARD}">{face}<b><bdi>{html.escape(person.name)}</bdi></b><br>'
        f"<small>{photos}<br>until {person.retain_until:%d %b %Y}<br>no. {person.id}</small></div>"
    )


def initials(name: str) -> str:
    """Return the first letters of the first and the last word of a name."""
    words = name.split()
    return "".join(each[:1] for each in (words[:1] + words[1:][-1:])).upper()


def _person(kept: Gallery, person: Person) -> None:
    with st.container(border=True):
        frame.words(person.name, tag="b")
        picture = kept.thumbnails([person]).get(person.id)
        if picture:
            st.image(picture, width=64, alt="The enrolled face, 64 pixels")
        new = st.text_input("New name", value=person.name, max_chars=NAME_LENGTH, key=f"rename_{person.id}")
        with st.container(horizontal=True), session.refusals_shown():
            if st.button("Rename", disabled=new == person.name, key="person_rename"):
                kept.rename(person.name, new)
                done(f"The person is renamed. {kept.residue or ''}")
            st.download_button(
                "Export all that is stored",
                lambda: _exported(kept, person.id),
                "facemae-person.json",
                "application/json",
                key="person_export",
            )
            if st.button("Delete", icon=":material/delete:", key="person_delete"):
                kept.remove(person.id)  # whoever is called so by now
                done(f"The person is deleted. {_left(kept)}")


def _exported(kept: Gallery, person: int) -> str:
    """Return all that is stored of a person as JSON; nothing where they are gone or renamed meanwhile."""
    name = next((each.name for each in kept.people() if each.id == person), None)
    content = {"people": []} if name is None else kept.export(name)
    return json.dumps(content, indent=2, ensure_ascii=False)


def _left(kept: Gallery) -> str:
    """Return what is left of somebody who was deleted."""
    return kept.residue or "Nothing of them is left in the gallery."


def _merges(where: Where) -> None:
    """Suggest to make two people one where their faces match; the visitor decides."""
    kept, model = where.gallery, where.models[0]
    asked = key(f"alike_{model.fingerprint}")
    if st.button("Look for people who may be one", key="gallery_alike"):  # of all with all, so not each time
        with frame.turn(), st.spinner("Comparing everybody with everybody…"):
            st.session_state[asked] = kept.lookalikes(model.fingerprint, where.threshold().score)
    alike = st.session_state.get(asked)
    if alike is None:
        return
    with st.expander(f"Perhaps one person ({len(alike)})", expanded=True):
        if not alike:
            st.write("Nobody looks like anybody else.")
        for one, other, score in alike[:MERGES]:
            names = [f"<bdi>{html.escape(each.name)}</bdi>" for each in (one, other)]
            st.html(f"{names[0]} and {names[1]}, score {score:.3f}")
            if st.button("Make them one, under the first name", key=f"merge_{one.id}_{other.id}"):
                with session.refusals_shown():
                    kept.merge(other.name, one.name)
                    done(f"They are one person now. {kept.residue or ''}")


def _erase(kept: Gallery, count: int) -> None:
    with st.expander("Export or delete everybody"):
        st.download_button(
            "Export everybody",
            lambda: json.dumps(kept.export(), indent=2, ensure_ascii=False),
            "facemae-gallery.json",
            "application/json",
            key="gallery_export",
        )
        typed = st.text_input(f"To delete all {count} people, type {WORD}", key="gallery_word")
        if st.button(
            "Delete everybody", icon=":material/delete_forever:", disabled=typed != WORD, key="erase"
        ):
            with session.refusals_shown():
                done(f"{kept.erase()} people are deleted. {_left(kept)}")
