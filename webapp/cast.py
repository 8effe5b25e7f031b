"""Who is on a site that nobody has used yet, and what they say. No Django needed."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["PASSWORD", "PEOPLE", "REMARKS", "Somebody"]

PASSWORD: Final = "look-around"  # noqa: S105  # of people who exist in demos alone


class Somebody(NamedTuple):
    """A person of the seed. `photos`: scene and caption."""

    name: str
    display_name: str
    bio: str
    photos: tuple[tuple[str, str], ...]


PEOPLE: Final = (
    Somebody("ana.lima", "Ana Lima", "Mountains before breakfast. Lisbon, mostly elsewhere.", (
        ("mountains", "First light on the ridge. Worth every alarm clock."),
        ("lake", "Not a breath of wind this morning."),
        ("dunes", "Sand in everything I own. No regrets."))),
    Somebody("bruno", "Bruno Keller", "I walk, I look up.", (
        ("city", "The hour when the windows start to talk"),
        ("city", "Rooftops, layer by layer"),
        ("sea", "Evening ferry, last one home"))),
    Somebody("chiyo", "Chiyo Tanaka", "Film, fog and forests", (
        ("forest", "Fog rolled in while the kettle boiled"),
        ("forest", "Somewhere up there is a path"),
        ("lake", "Two mountains for the price of one"))),
    Somebody("dmitri", "Dmitri Orlov", "Nights are for looking up", (
        ("aurora", "Three hours at minus twenty, then this"),
        ("aurora", "It moved like a curtain in an open window #aurora"),
        ("mountains", "Moon over the pass"))),
    Somebody("elif", "Elif Aydın", "Bosphorus, ferries, cats", (
        ("sea", "Somebody left a road of light on the water"),
        ("city", "Home, from the other shore"),
        ("sea", "Flat calm. Even the gulls were quiet."))),
    Somebody("femi", "Femi Adeyemi", "Desert guide. Ask me about tea.", (
        ("dunes", "The wind irons them every night"),
        ("dunes", "Found some shade. Not much."),
        ("mountains", "Where the sand gives up"))),
    Somebody("greta", "Greta Holm", "Slow travel, slower coffee", (
        ("lake", "The boathouse is behind me, trust me"),
        ("forest", "Autumn arrived on a Tuesday"),
        ("aurora", "The neighbours woke us. Thank you, neighbours."))),
    Somebody("hugo", "Hugo Marchand", "Architect. Counting windows since 1988.", (
        ("city", "412 windows lit. I counted."),
        ("sea", "A straight line, drawn by nobody"),
        ("city", "Haze is just depth you can see"))),
    Somebody("ines", "Inês Prado", "Surf reports and sunsets", (
        ("sea", "No waves. Stayed anyway."),
        ("dunes", "Behind the beach, before the storm"),
        ("sea", "One boat, whole ocean"))),
    Somebody("jonas", "Jonas Berg", "Maps, boots, soup", (
        ("mountains", "Five ridges to the hut. Then four. Then soup."),
        ("mountains", "Dusk turned the whole valley pink"),
        ("forest", "Short cut. It was not a short cut."))),
    Somebody("kavya", "Kavya Rao", "Astronomer by night, asleep by day", (
        ("aurora", "Oxygen at 557.7 nanometres, for those who ask"),
        ("city", "Light pollution, but make it pretty"),
        ("lake", "Dawn, before the boats"))),
    Somebody("leo", "Leo Fontaine", "I only came for the view", (
        ("forest", "Counting trees. Lost count."),
        ("mountains", "Blue hour, all of it"),
        ("dunes", "Walked in circles. Nice circles."))),
)  # fmt: skip
REMARKS: Final = (
    "This light!", "Where is that?", "I can hear how quiet it was.", "Frame it.", "Taking me there next time?",
    "The colours are unreal", "Worth the walk", "That is my new wallpaper", "I was there last year, still think of it",
    "More of these, please", "How early did you get up?", "The layers!",
)  # fmt: skip
