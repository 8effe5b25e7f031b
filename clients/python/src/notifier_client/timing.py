"""How long each part of a connection may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds.

    answer   for token, handshake and `ready` together
    stable   how long a connection lives until the waits begin small again
    ack      for gathering acknowledgements
    silence  without a sign of life, then a ping; a stream cannot be asked, and is given up after twice as long
    pong     for the answer to it
    """

    answer: float = 15.0
    stable: float = 60.0
    ack: float = 0.1
    silence: float = 30.0
    pong: float = 10.0
