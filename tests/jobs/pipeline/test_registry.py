"""Which processors there are, where they come from, and what the pipeline made of them does."""

import codecs
import hashlib
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from docworker.db.errors import ConfigurationError
from docworker.jobs.pipeline.draft import Draft, Original, PipelineError, ProcessorError
from docworker.jobs.pipeline.limits import Limits
from docworker.jobs.pipeline.processor import Options, Processor, declared, processor
from docworker.jobs.pipeline.registry import Pipeline, in_order, installed_processors


@pytest.fixture(autouse=True)
def _no_declarations_left() -> Iterator[None]:
    before = list(declared)
    yield
    declared[:] = before


Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a package with a module and entry points where Python finds installed packages."""

    def installed(package: str, source: str, **entry_points: str) -> None:
        metadata = tmp_path / f"{package}-1.0.dist-info"
        metadata.mkdir()
        (tmp_path / f"{package}.py").write_text(source)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entry_points.items()]
        (metadata / "entry_points.txt").write_text("\n".join(["[docworker.processors]", *lines, ""]))
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()

    return installed


REDACT = """
from docworker.jobs.pipeline.draft import Draft
from docworker.jobs.pipeline.processor import Processor

class Redact(Processor):
    name = "redact"
    version = 3
    order = 250

    def process(self, document: Draft) -> Draft:
        return document.with_content(document.text.replace("secret", "█" * 6)).with_facts(redacted=True)
"""


def kind(name: Any = "step", version: Any = 1, order: Any = 150) -> type[Processor]:
    members = {"name": name, "version": version, "order": order, "process": lambda _self, document: document}
    return type("Step", (Processor,), members)


def test_own_processors_are_installed_in_their_order() -> None:
    with Pipeline.load() as pipeline:
        assert pipeline.signature == "extract/4 normalize/2 describe/5"


def test_processor_of_another_package_takes_its_place(install: Install) -> None:
    install("redact_plugin", REDACT, redact="redact_plugin:Redact")
    with Pipeline.load() as pipeline:
        processed = pipeline.run(Original(text="a secret place"))
    assert processed.pipeline == "extract/4 normalize/2 redact/3 describe/5"
    assert processed.content == "a ██████ place"
    assert processed.facts["redacted"] is True


def test_decorated_function_is_a_processor() -> None:
    @processor(name="shout", version=2, order=210)
    def shout(document: Draft) -> Draft:
        return document.with_content(document.text.upper())

    with Pipeline.load() as pipeline:
        processed = pipeline.run(Original(text="quiet"))
    assert processed.pipeline == "extract/4 normalize/2 shout/2 describe/5"
    assert processed.content == "QUIET"


def test_early_processor_can_add_a_format() -> None:
    @processor(name="rot13", version=1, order=50)
    def rot13(document: Draft) -> Draft:
        if not document.source.filename.endswith(".rot13"):
            return document
        return document.with_content(codecs.decode((document.source.data or b"").decode(), "rot13"))

    with Pipeline.load() as pipeline:
        assert pipeline.run(Original(filename="a.rot13", data=b"yvtugubhfr")).content == "lighthouse"


def test_processor_of_another_package_whose_name_is_taken_is_refused(install: Install) -> None:
    source = REDACT.replace('"redact"', '"normalize"')
    install("rival", source, normalize="rival:Redact")
    with pytest.raises(ProcessorError, match=r"two processors are called 'normalize'.*rival") as caught:
        installed_processors()
    assert "docworker.jobs.pipeline.normalize.Normalize" in str(caught.value)


def rot13(document: Draft) -> Draft:
    return document


def another(document: Draft) -> Draft:
    return document


def test_a_second_processor_of_one_name_is_refused_where_it_is_declared() -> None:
    declare = processor(name="rot13", version=1, order=50)
    declare(rot13)
    with pytest.raises(ConfigurationError, match=r"called 'rot13': .*test_registry.rot13 and .*test_registry.another"):
        declare(another)


def test_a_processor_whose_module_is_loaded_anew_takes_its_own_place() -> None:
    for version in (1, 2):
        processor(name="rot13", version=version, order=50)(rot13)
    assert [each.version for each in installed_processors() if each.name == "rot13"] == [2]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("broken_plugin:Missing", "cannot be loaded .* AttributeError"),
        ("no_such_module:Redact", "cannot be loaded .* ModuleNotFoundError"),
        ("broken_plugin:NUMBER", "is not a subclass of Processor but 7"),
        ("broken_plugin:Redact", "calls itself 'redact'"),
    ],
)
def test_entry_point_that_is_wrong_is_named(install: Install, value: str, complaint: str) -> None:
    install("broken_plugin", REDACT + "\nNUMBER = 7\n", other=value)
    with pytest.raises(ProcessorError, match=f"entry point 'other' of broken_plugin.*{complaint}"):
        installed_processors()


def test_same_processor_found_twice_is_one() -> None:
    step = kind()
    assert in_order([(step, "here"), (step, "there")]) == [step]


def test_equal_orders_go_by_name() -> None:
    steps = [kind(name) for name in ("b", "c", "a")]
    assert [each.name for each in in_order((step, "test") for step in steps)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (kind(name="Shout!"), "name must be .* got 'Shout!'"),
        (kind(name=None), "name must be .* got None"),
        (kind(version=0), "version must be an integer from 1, got 0"),
        (kind(version="1.0"), "version must be an integer from 1, got '1.0'"),
        (kind(version=True), "version must be an integer from 1, got True"),
        (kind(order=None), "order must be an integer, got None"),
        (type("Lazy", (Processor,), {"name": "lazy", "version": 1, "order": 1}), r"does not implement process\(\)"),
    ],
)
def test_wrong_declaration_is_refused_with_the_value(wrong: type[Processor], complaint: str) -> None:
    with pytest.raises(ProcessorError, match=complaint):
        in_order([(wrong, "test")])


def test_options_reach_the_processors_and_close_lets_them_go() -> None:
    closed = []

    class Careful(Processor):
        name, version, order = "careful", 1, 10
        options = Options()

        @classmethod
        def build(cls, options: Options) -> "Careful":
            each = cls()
            each.options = options
            return each

        def process(self, document: Draft) -> Draft:
            return document.with_facts(limit=self.options.limits.output_bytes)

        def close(self) -> None:
            closed.append(self.name)

    declared.append(Careful)
    with Pipeline.load(Limits(output_bytes=1234)) as pipeline:
        assert pipeline.run(Original(text="words")).facts["limit"] == 1234
    assert closed == ["careful"]


def test_result_carries_the_digest_of_what_is_stored() -> None:
    with Pipeline.load() as pipeline:
        processed = pipeline.run(Original(text="e\u0301te\u0301 \r\n"))
    assert processed.content == "été"
    assert processed.content_sha256 == hashlib.sha256("été".encode()).hexdigest()


@pytest.mark.parametrize("source", [Original(text=" \x00\n"), Original(filename="a.txt", data=b""), Original(text="")])
def test_document_without_text_is_refused(source: Original) -> None:
    with Pipeline.load() as pipeline, pytest.raises(PipelineError) as caught:
        pipeline.run(source)
    assert caught.value.reason == "empty"


def test_text_past_the_output_limit_is_refused() -> None:
    with Pipeline.load(Limits(output_bytes=10)) as pipeline, pytest.raises(PipelineError) as caught:
        pipeline.run(Original(text="eleven char"))
    assert caught.value.reason == "output_limit"


def test_text_that_grows_past_the_output_limit_is_refused() -> None:
    limits = Limits(output_bytes=100)
    with Pipeline.load(limits) as pipeline:
        for text in ("ü" * 60, "\U0001d160" * 20):  # by its bytes; by what NFC makes of it
            with pytest.raises(PipelineError, match="100 bytes allowed") as caught:
                pipeline.run(Original(text=text))
            assert caught.value.reason == "output_limit"


def test_source_is_either_bytes_or_text() -> None:
    with pytest.raises(ValueError, match="got neither"):
        Original()
    with pytest.raises(ValueError, match="got both"):
        Original(data=b"", text="")


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="cpu_seconds must be positive, got 0"):
        Limits(cpu_seconds=0)
