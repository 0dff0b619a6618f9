"""The gallery page: enrol people, see who is enrolled and until when, and delete them again."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from typing import Any

import streamlit as st

from facemae.app import elements, frame, session
from facemae.app.parts import enrol_people, group_faces
from facemae.app.parts.enrol_people import NAME_LENGTH, SAID, done, key
from facemae.recognition.gallery.schema import Person
from facemae.recognition.gallery.store import Gallery
from facemae.recognition.model import Model

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
    with frame.explained(), frame.refusals_shown():
        kept = session.gallery()
        models = session.choose_models()
        if kept.clock_warning:  # a clock that has jumped would delete everybody
            st.warning(kept.clock_warning, icon=":material/schedule:")
            if st.button("The clock is right: delete whose time is over", key="gallery_clock"):
                done(f"{kept.purge(confirmed=True)} people are deleted.")
        people = kept.people()
        _numbers(kept, models, len(people))
        st.subheader("Enrol")
        enrol_people.show_refused(models)
        source = elements.switch("From", enrol_people.SOURCES, "gallery_from")
        if source == enrol_people.UNSORTED:
            group_faces.render(models)
        else:
            enrol_people.render(models, source)
        if people:
            _people(kept, people)
            with frame.refusals_shown():
                _merges(kept, models[0])
            with st.expander("Export or delete everybody"):
                _export("Export everybody", kept.export, "gallery")
                typed = st.text_input(f"To delete all {len(people)} people, type {WORD}", key="gallery_word")
                if st.button(
                    "Delete everybody", icon=":material/delete_forever:", disabled=typed != WORD, key="erase"
                ):
                    done(f"{kept.erase()} people are deleted. {_left(kept)}")


def _numbers(kept: Gallery, models: list[Model], people: int) -> None:
    templates = kept.models()
    counts = {"People": people, "Templates": sum(templates.values())}
    counts |= {f"By {each.name}": templates.get(each.fingerprint, 0) for each in models}
    elements.tiles({name: f"{count:,}" for name, count in counts.items()})
    demo = session.offers_demo()
    if not people:
        or_demo = ", or try it with demo people:" if demo else "."
        st.info(f"Nobody is enrolled yet. Enrol somebody below{or_demo}", icon=":material/info:")
    if demo and st.button("Enrol the demo people", icon=":material/group_add:", key="gallery_demo"):
        with frame.refusals_shown():
            count = session.enrol_demo(models[0])
            done(f"{count} demo people are enrolled." if count else "The demo people are enrolled already.")
    said = st.session_state.pop(SAID, None)
    with st.container():  # there also when empty: else what stands below would be drawn again, and close
        if said:
            st.toast("Done.", icon=":material/check:")
            st.success("Done.", icon=":material/check:")
            st.text(said)


def _people(kept: Gallery, people: list[Person]) -> None:
    st.subheader("Who is enrolled")
    text = st.text_input("Find", key="gallery_find", placeholder="a part of the name")
    shown = kept.find(text) if text else people
    more = st.session_state.setdefault(key("people_shown"), SHOWN)
    pictures = kept.thumbnails(shown[:more])
    cards = "".join(_card(each, pictures.get(each.id)) for each in shown[:more])
    st.html(f'<div style="{GRID}">{cards}</div>')
    if len(shown) > more and st.button("Show more people", key="people_more"):
        st.session_state[key("people_shown")] = more + SHOWN
        st.rerun()
    chosen = st.selectbox(
        "Rename, export or delete", shown, index=None, format_func=lambda each: each.name,
        placeholder="Choose a person", key=key("person"),
    )  # fmt: skip
    if chosen is not None:
        _person(kept, chosen)


def _card(person: Person, picture: bytes | None) -> str:
    """Return a person as a card: the picture that was kept or else initials, name, photos and last day."""
    box = "width:72px;height:72px;border-radius:8px;margin-bottom:6px"
    if picture:
        face = f'<img alt="" style="{box};display:block" src="{elements.picture(picture)}">'
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
        elements.words(person.name, tag="b")
        picture = kept.thumbnails([person]).get(person.id)
        if picture:
            st.image(picture, width=64, alt="The enrolled face, 64 pixels")
        new = st.text_input("New name", value=person.name, max_chars=NAME_LENGTH, key=f"rename_{person.id}")
        with st.container(horizontal=True), frame.refusals_shown():
            if st.button("Rename", disabled=new == person.name, key="person_rename"):
                kept.rename(person.name, new)
                done(f"The person is renamed. {kept.residue or ''}")
            _export("Export all that is stored", lambda: _stored(kept, person.id), "person")
            if st.button("Delete", icon=":material/delete:", key="person_delete"):
                kept.remove(person.id)  # whoever is called so by now
                done(f"The person is deleted. {_left(kept)}")


def _stored(kept: Gallery, person: int) -> dict[str, Any]:
    """Return all that is stored of a person; nothing where they are gone meanwhile."""
    name = next((each.name for each in kept.people() if each.id == person), None)
    return {"people": []} if name is None else kept.export(name)


def _export(label: str, stored: Callable[[], dict[str, Any]], name: str) -> None:
    """Offer what is stored as JSON."""
    st.download_button(
        label, lambda: json.dumps(stored(), indent=2, ensure_ascii=False), f"facemae-{name}.json",
        "application/json", key=f"{name}_export",
    )  # fmt: skip


def _left(kept: Gallery) -> str:
    """Return what is left of somebody who was deleted."""
    return kept.residue or "Nothing of them is left in the gallery."


def _merges(kept: Gallery, model: Model) -> None:
    """Suggest to make two people one where their faces match; the visitor decides."""
    asked = key(f"alike_{model.fingerprint}")
    if st.button("Look for people who may be one", key="gallery_alike"):  # of all with all, so not each time
        with frame.turn(), st.spinner("Comparing everybody with everybody…"):
            st.session_state[asked] = kept.lookalikes(model.fingerprint, session.threshold(model).score)
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
                with frame.refusals_shown():
                    kept.merge(other.name, one.name)
                    done(f"They are one person now. {kept.residue or ''}")
