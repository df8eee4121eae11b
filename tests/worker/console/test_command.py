"""`docworker console` as it is started: what it prints, where it answers, how it ends."""

import re

import pytest

from tests.support.console import Browser
from tests.support.processes import Processes


@pytest.mark.usefixtures("environment")
def test_it_makes_a_token_for_this_machine_answers_and_ends_in_order(processes: Processes) -> None:
    process = processes.start("console", "--port", "0")
    line = re.sub(r"\x1b\[[0-9;]*m", "", process.wait_for_log("http.listening", within_seconds=60))
    port = re.search(r"port=([0-9]{1,5})", line)
    token = re.search(r"log in with the token (\S{20,100}), made", process.log)
    assert port is not None
    assert token is not None
    browser = Browser(f"http://127.0.0.1:{port[1]}")
    assert browser.get("/healthz").status_code == 200
    assert browser.send("/login", {"token": token[1]}).status_code == 303
    assert "Overview" in browser.page("/")
    browser.close()
    assert process.stop() == 0


@pytest.mark.usefixtures("environment")
def test_it_does_not_start_for_others_without_a_token(processes: Processes) -> None:
    process = processes.start("console", "--host", "0.0.0.0", "--port", "0")
    assert process.wait(within_seconds=60) == 1
    assert "would be open to others at 0.0.0.0 without a token" in process.log
