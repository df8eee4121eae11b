"""Has every program that tests start hear every signal, however the tests themselves were started.

`nohup make test &`, a shell without job control or a CI runner starts us with some of them ignored. What is ignored
stays so in whatever we start, and Ctrl-C would not end it; what has a handler is back to its default there.
"""

import signal

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""By which somebody ends a program. `subprocess` itself sets SIGPIPE back, which Python ignores."""


def let_programs_hear_signals() -> None:
    """Ignore by a handler what we were started to ignore; only SIGINT interrupts us from now on.

    To be called in the main thread.
    """
    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else _ignore)


def _ignore(*_: object) -> None: ...
