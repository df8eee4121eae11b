"""`Pace`: when the dispatcher looks again: at once where that finds work, seldom where it does not.

Pure arithmetic on seconds; who waits, and on what, is the dispatcher's.
"""

SHORTEST_SECONDS = 0.002
AFTER_SENDING_SECONDS = 0.01
"""Whoever commits meanwhile rings, but for those who commit while another one is about to. The processor is better used
by who runs what was sent."""
LONGEST_WHILE_FULL_SECONDS = 0.25
_GROWTH = 1.5
_REST = 0.5
"""Of a look's own duration, after one that was rung for or has sent something: where somebody rings all the time, one
look answers several rings. After one that nobody asked for, a ring is answered at once."""


class Pace:
    """`seconds` until the next look; `listens` says whether a notification is a reason to look sooner."""

    def __init__(self, longest_seconds: float) -> None:
        self._longest = longest_seconds
        self._longest_while_full = min(LONGEST_WHILE_FULL_SECONDS, longest_seconds)
        self._rest_seconds = 0.0
        self._was_rung = False
        self.seconds = SHORTEST_SECONDS
        self.listens = True

    def looked(self, *, sent: int, room: int, window: int, look_seconds: float, is_amid: bool = False) -> None:
        """After a look that `sent` messages where there was `room` in a `window`, or that `is_amid` a round of looks.

        With a backlog a look fills the room, and nothing can be sent before a message is taken: a ring changes
        nothing then, and the right time to look again is when half of the window is free, sooner when it was more and
        later when it was less. Without one, there may be jobs whose ring nobody heard: look soon, then less and less.
        """
        was_asked_for = self._was_rung or sent > 0
        self._rest_seconds = max(_REST * look_seconds, SHORTEST_SECONDS) if was_asked_for else 0.0
        self._was_rung = False
        self.listens = sent < room
        if is_amid and not sent:
            self.seconds = SHORTEST_SECONDS
        elif self.listens:
            self.seconds = AFTER_SENDING_SECONDS if sent else self._longer(self._longest)
        elif 2 * room > window:
            self.seconds = min(max(self.seconds / 2, SHORTEST_SECONDS), self._longest_while_full)
        elif 2 * room < window:
            self.seconds = self._longer(self._longest_while_full)
        else:
            self.seconds = min(self.seconds, self._longest_while_full)

    def failed(self) -> None:
        """After a look that came to nothing: what failed just now does not work because somebody rings."""
        self.listens = self._was_rung = False
        self.seconds = self._longer(self._longest)

    def notified(self) -> None:
        """Somebody has committed jobs."""
        self._was_rung = True
        self.seconds = min(self.seconds, self._rest_seconds)

    def _longer(self, longest: float) -> float:
        return min(max(self.seconds, SHORTEST_SECONDS) * _GROWTH, longest)
