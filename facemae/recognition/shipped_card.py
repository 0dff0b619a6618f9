"""The card of a model that comes with the package as Markdown: its README, made from card.json alone."""

from __future__ import annotations

from typing import Any

from facemae.recognition.model_card import (
    FORBIDDEN,
    INTENDED,
    UNMEASURED,
    listed,
    literal,
    number,
    section,
    table,
    threshold_table,
)

USED = {
    "face-mae": "It completes faces of which a part is hidden, and encoders start from it: pretrain.init, "
    "finetune.init.",
    "face-embedder": "It turns an aligned face into a vector; faces are compared by the cosine of theirs.",
    "face-tiny": "The same as face-embedder in a network small enough for a phone.",
}
NO_GROUPS = (
    "Not known: the photos that it was measured on name no groups. Errors differ between groups of people in "
    "every recogniser that was looked at; take it that they do here."
)
UNKNOWN_FAILURES = "Turned, covered, blurred and badly lit faces fail more often than the numbers above say."


def as_markdown(card: dict[str, Any]) -> str:
    """Return the card of a packed model; the same card always gives the same text."""
    name = card["model"]
    parts = [
        f"# Model card: {name}",
        listed(
            [
                USED[name],
                f"Licence: {card['licence']}.",
                "The vectors and completions are biometric data: faces have been rebuilt from such vectors.",
            ]
        ),
        section("Intended use", listed(INTENDED)),
        section("Forbidden use", listed(FORBIDDEN)),
        section("Data", _data(card)),
        section("Measured", _measured(card)),
        section("Errors by group", _groups(card)),
        section("Known failures", listed([*card["failures"], UNKNOWN_FAILURES])),
        section("Not measured", listed(f"{what}: {why}" for what, why in UNMEASURED.items())),
        section("Files", _files(card)),
        section("How it was made", _made(card["made"], card["notes"])),
    ]
    return "\n\n".join(parts) + "\n"


def _data(card: dict[str, Any]) -> str:
    known, apart = card["trained_on"], card["evaluated_on"]
    sources = [
        f"{literal(each['title'])}. Credit: {literal(each['credit'])}. Licence: {literal(each['licence'])}."
        for each in card["data"]
    ]
    return listed(
        [
            *sources,
            f"Trained on {known['photos']:,} photos: of {known['people']:,} people by name, and "
            f"{known['unnamed']:,} that name nobody.",
            f"Measured on {apart['people']:,} people whom it was not trained on by name; people.json holds "
            "the start of the SHA-256 of the names on both sides.",
            "Somebody whom an unnamed photo shows may be among them.",
        ]
    )


def _measured(card: dict[str, Any]) -> str:
    rows = [
        (literal(each["name"]), number(each["value"], ".4f") or "refused", f"{each['n']:,}", each["note"])
        for each in card["metrics"]
    ]
    rows.append((card["sample"]["of"], number(card["sample"]["value"], ".4f"), "80", "checked by the tests"))
    parts = [table(("What", "Value", "Behind it", "Note"), rows)]
    if "thresholds" in card:
        found = card["lfw_view2"]
        parts.append(
            listed(
                [
                    f"LFW View 2: {_share(found, 'lfw_view2')}, on {card['lfw_view2_pairs']:,} of its pairs."
                    if found
                    else "LFW View 2: not measured, since its people are among those it was trained on.",
                    f"Pairs of the {card['people']:,} people of this card: "
                    f"{_share(card['card_people'], 'accuracy')}.",
                    f"Faces a second on one processor core, once aligned: {card['faces_per_second']:g}.",
                ]
            )
        )
        parts.append(threshold_table(card["thresholds"], card["people"]))
    return "\n\n".join(parts)


def _share(found: dict[str, Any], name: str) -> str:
    return f"{found[name]:.2%} ({found['ci_low']:.2%} to {found['ci_high']:.2%}, over people)"


def _groups(card: dict[str, Any]) -> str:
    lines = [
        (literal(each["condition"] or "between groups"), each["name"], number(each["value"], ".4f"))
        for each in card["groups"]
    ]
    return table(("Group", "Error", "Value"), lines) if lines else NO_GROUPS


def _files(card: dict[str, Any]) -> str:
    return table(
        ("File", "SHA-256"), [(literal(name), literal(each)) for name, each in card["files"].items()]
    )


def _made(made: dict[str, Any], notes: list[str]) -> str:
    def pairs(name: str) -> str:
        found = made[name] or {}
        return (
            ", ".join(f"{key} {value:,.0f}" for key, value in sorted(found.items())) if found else "not said"
        )

    seen = made["images_seen"]
    started, taught = (made["started_from"] or {}).get("init", "random weights"), made["teacher"]
    return listed(
        [
            f"Started from: {literal(started)}." + (f" Teacher: {literal(taught)}." if taught else ""),
            f"Seed: {made['seed']}. Hardware: {literal(made['device'])}.",
            f"Processor or GPU seconds: {pairs('seconds')}.",
            f"Faces seen: {f'{seen:,}' if isinstance(seen, int) else pairs('images_seen')}.",
            f"Commit: {literal(made['commit'])}.",
            *notes,
        ]
    )
