"""Who gets in: by which token, from where, with which form; over every page and action that there is."""

import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from docworker.db.errors import ConfigurationError
from docworker.db.settings import Settings, settings
from docworker.worker.console import console_app
from docworker.worker.console.access import Gate, Role, Tokens
from docworker.worker.console.pages import PAGES
from docworker.worker.console.server import is_loopback, tokens_for
from tests.support.console import TOKENS, Browser, served, serving_console

NewBrowser = Callable[..., Browser]

ANY_ID = str(UUID(int=7))
PATHS = [(page.name, page.path, page.role) for page in PAGES]
ACTIONS = [(f"{page.name}.{action.name}", action.path, action.role) for page in PAGES for action in page.actions]


def filled(path: str) -> str:
    """The path with an id in the place of each parameter."""
    return "/".join(ANY_ID if part.startswith("{") else part for part in path.split("/"))


@pytest.mark.parametrize(("name", "path", "role"), PATHS, ids=[one[0] for one in PATHS])
def test_a_page_is_for_who_has_logged_in_with_its_role(browser: NewBrowser, name: str, path: str, role: Role) -> None:
    nobody = browser().get(filled(path))
    assert nobody.status_code == 303
    assert "/login" in nobody.headers["Location"]
    assert "docworker</a>" not in nobody.text
    as_viewer = browser("viewer").get(filled(path)).status_code
    as_operator = browser("operator").get(filled(path)).status_code
    assert (as_viewer == 403) == (role is Role.OPERATOR)
    assert as_operator in (200, 404, 422), "404 and 422 where it is of something that is not there"


@pytest.mark.parametrize(("name", "path", "role"), ACTIONS, ids=[one[0] for one in ACTIONS])
def test_an_action_is_for_its_role_and_from_a_form_of_the_console_alone(
    browser: NewBrowser, name: str, path: str, role: Role
) -> None:
    path = filled(path)
    assert browser().send(path, {"form_token": "x"}).status_code == 401
    viewer, operator = browser("viewer"), browser("operator")
    assert (viewer.act(path).status_code == 403) == (role is Role.OPERATOR)
    token = operator.form_token()
    assert operator.send(path, {}).status_code == 403, "no form token"
    assert operator.send(path, {"form_token": viewer.form_token()}).status_code == 403, "another session's"
    assert operator.send(path, {"form_token": browser("operator").form_token()}).status_code == 403
    for origin in ("https://evil.example", operator.origin + ".evil.example", "null", None):
        assert operator.send(path, {"form_token": token}, origin=origin).status_code == 403, origin
    assert operator.get(path).status_code in (200, 303, 404, 422), "nothing is done by GET"


def test_one_logs_in_with_a_token_and_out_again(browser: NewBrowser) -> None:
    one = browser("viewer")
    assert "viewer" in one.page("/")
    cookies = {cookie.name: cookie for cookie in one._client.cookies.jar}
    cookie = cookies["docworker_console"]
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite") == "strict"
    kept = str(cookie.value)
    assert one.send("/logout", {}).status_code == 403, "not by another page"
    assert one.act("/logout").status_code == 303
    assert one.get("/").status_code == 303
    one._client.cookies.set("docworker_console", kept)
    assert one.get("/").status_code == 303, "the cookie is good no more"


@pytest.mark.parametrize("token", ["", "x", "viewer", TOKENS["viewer"] + "x", "\udcff", "é" * 40])
def test_what_is_no_token_lets_nobody_in(browser: NewBrowser, token: str) -> None:
    one = browser()
    assert one.send("/login", {"token": token.encode("utf-8", "replace").decode()}).status_code == 401
    assert one.get("/").status_code == 303


def test_a_login_comes_from_the_console_s_own_form(browser: NewBrowser) -> None:
    assert browser().send("/login", {"token": TOKENS["viewer"]}, origin="https://evil.example").status_code == 403


def test_who_guesses_is_slowed_down(browser: NewBrowser) -> None:
    one = browser()
    answers = [one.send("/login", {"token": "guess"}) for _ in range(15)]
    assert {answer.status_code for answer in answers} == {401, 429}
    assert int(answers[-1].headers["Retry-After"]) >= 1


@pytest.mark.parametrize("wanted", ["//evil.example", "/\\evil.example", "https://evil.example", "x", "/a\nb"])
def test_a_login_leads_nowhere_else(browser: NewBrowser, wanted: str) -> None:
    response = browser().send("/login", {"token": TOKENS["viewer"], "next": wanted})
    assert (response.status_code, response.headers["Location"]) == (303, "/")


def test_each_answer_has_headers_that_keep_it_to_itself(browser: NewBrowser) -> None:
    for path in ("/", "/login", "/nothing", "/healthz"):
        headers = browser().get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"
    assert browser().get("/static/console.css").headers["Cache-Control"].startswith("public")
    assert browser().get("/static/../access.py").status_code == 404
    assert browser().get("/static/%2e%2e/access.py").status_code == 404


def test_probes_need_no_token(browser: NewBrowser) -> None:
    assert browser().get("/healthz").json() == {"status": "ok"}


def test_a_form_that_is_none_or_too_large_is_refused(browser: NewBrowser) -> None:
    one = browser()
    assert one._client.post("/login", json={}).status_code == 415
    assert one.send("/login", {"token": "x" * 100_000}).status_code == 413
    assert one.send("/login", {str(number): "" for number in range(500)}).status_code == 400


@pytest.mark.parametrize("forged", ["", ".", "x.y", "e30.", "e30.00", "=" * 9000, "é.é"])
def test_a_cookie_that_is_none_begins_no_session(opened: object, forged: str) -> None:
    gate = Gate(Tokens(Settings(console_operator_token=TOKENS["operator"])), seconds=60)
    assert gate.known(forged) is None


def test_a_session_ends_with_its_time_with_its_token_and_is_of_one_role(environment: dict[str, str]) -> None:
    configured = Settings(console_operator_token=TOKENS["operator"], console_viewer_token=TOKENS["viewer"])
    gate = Gate(Tokens(configured), seconds=60)
    cookie = gate.begin(Role.VIEWER)
    known = gate.known(cookie)
    assert known is not None
    assert known.role is Role.VIEWER
    changed = Settings(console_operator_token=TOKENS["operator"], console_viewer_token="another one of 16")
    assert Gate(Tokens(changed), seconds=60).known(cookie) is None
    assert Gate(Tokens(Settings(console_operator_token=TOKENS["operator"])), seconds=60).known(cookie) is None
    assert Gate(Tokens(configured), seconds=60).known(cookie) is not None, "another process knows it"
    text, _, signature = cookie.partition(".")
    assert gate.known(f"{text}.{signature[:-1]}{'0' if signature[-1] != '0' else '1'}") is None
    over = gate.sealed(Role.VIEWER, {"id": "x", "until": time.time() - 1})
    assert gate.known(over) is None
    assert gate.known(gate.sealed(Role.VIEWER, {"say": "no session"})) is None


def test_tokens_are_read_from_files_that_may_change(
    opened: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKENS["operator"] + "\n")
    monkeypatch.setenv("DOCWORKER_CONSOLE_OPERATOR_TOKEN_FILE", str(file))
    settings.cache_clear()
    with serving_console() as url:
        one = Browser(url).log_in("operator")
        assert one.get("/").status_code == 200
        file.write_text("another token of sixteen")
        assert one.get("/").status_code == 303, "who had the old one is out"
        assert one.send("/login", {"token": TOKENS["operator"]}).status_code == 401
        file.write_text("short")
        assert one.send("/login", {"token": "short"}).status_code == 503
        file.unlink()
        assert one.send("/login", {"token": ""}).status_code == 503, "nobody is let in without a token"
        one.close()


def test_it_is_closed_without_a_token(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="the console has no token"):
        console_app()
    alone, _ = tokens_for(Settings(), made="made for this run")
    assert alone.of(Role.OPERATOR) == "made for this run"
    assert alone.of(Role.VIEWER) is None
    with pytest.raises(ConfigurationError, match="would be open to others at"):
        tokens_for(Settings(console_host="0.0.0.0"), made="made for this run")


def test_only_addresses_of_this_machine_are_its_own() -> None:
    assert [one for one in ("127.0.0.1", "::1", "localhost", "127.8.8.8") if not is_loopback(one)] == []
    assert [one for one in ("0.0.0.0", "::", "10.0.0.1", "example.com", "") if is_loopback(one)] == []


def test_it_is_mounted_in_another_application(opened: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCWORKER_CONSOLE_VIEWER_TOKEN", TOKENS["viewer"])
    settings.cache_clear()
    with served(Starlette(routes=[Mount("/jobs", app=console_app())])) as url:
        one = Browser(f"{url}/jobs")
        assert (
            one.send("/login", {"token": TOKENS["viewer"], "next": "/failures"}).headers["Location"] == "/jobs/failures"
        )
        page = one.page("/failures")
        assert 'href="/jobs/backlog"' in page
        assert one.get("/static/console.css").status_code == 200
        assert 'src="/jobs/static/console.js' in page
        one.close()


def test_it_works_below_a_path_and_as_people_see_it_behind_a_proxy(
    opened: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCWORKER_CONSOLE_OPERATOR_TOKEN", TOKENS["operator"])
    monkeypatch.setenv("DOCWORKER_CONSOLE_ORIGIN", "https://jobs.example.com")
    settings.cache_clear()
    with serving_console(root_path="/jobs") as url:
        one = Browser(url.removesuffix("/jobs"))
        response = one.get("/")
        assert response.headers["Location"].startswith("/jobs/login")
        assert 'action="/jobs/login"' in one.get("/login").text
        fields = {"token": TOKENS["operator"]}
        assert one.send("/login", fields).status_code == 403
        response = one.send("/login", fields, origin="https://jobs.example.com")
        assert response.headers["Location"] == "/jobs/"
        assert "Path=/jobs; " in response.headers["Set-Cookie"]
        assert "Secure" in response.headers["Set-Cookie"]
        one.close()
