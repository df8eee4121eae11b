"""What an import leaves out, and documents whose files are gone."""

from pathlib import Path

import pytest

from docworker.db.documents.reading import list_documents
from docworker.db.errors import InvalidArgumentError
from docworker.jobs.imports.ignoring import IGNORE_FILE, Ignore
from docworker.jobs.imports.importing import import_tree
from docworker.jobs.imports.pruning import Seen, find_gone, started_at
from docworker.jobs.imports.walking import FoundFile, printable_path, walk
from docworker.worker.local.stack import LocalStack
from tests.support.commands import docworker
from tests.support.tenants import Tenant


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in ("a.txt", "b.bak", ".hidden.txt", ".git/config", "drafts/c.txt", "deep/drafts/d.txt", "deep/keep.bak"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def found(root: Path, ignore: Ignore) -> set[str]:
    return {printable_path(one.path) for one in walk(root, ignore) if isinstance(one, FoundFile)}


def test_hidden_files_and_what_patterns_name_are_left_out(tree: Path) -> None:
    assert found(tree, Ignore()) == {"/a.txt", "/b.bak", "/drafts/c.txt", "/deep/drafts/d.txt", "/deep/keep.bak"}
    patterns = ["*.bak", "!keep.bak", "/drafts/"]
    assert found(tree, Ignore(patterns)) == {"/a.txt", "/deep/drafts/d.txt", "/deep/keep.bak"}
    assert found(tree, Ignore(["drafts/"], hidden=True)) == {
        "/a.txt",
        "/b.bak",
        "/.hidden.txt",
        "/.git/config",
        "/deep/keep.bak",
    }


def test_the_file_of_the_tree_comes_first_and_patterns_of_the_command_after_it(tree: Path) -> None:
    (tree / IGNORE_FILE).write_text("# not these\n*.bak\ndrafts/\n")
    assert found(tree, Ignore.of_tree(tree)) == {"/a.txt"}
    assert found(tree, Ignore.of_tree(tree, ["!keep.bak"])) == {"/a.txt", "/deep/keep.bak"}


@pytest.mark.parametrize("content", [b"\xff\xfe", b"!", b"a\n" * 1_000_000])
def test_what_is_no_list_of_patterns_is_refused(tree: Path, content: bytes) -> None:
    (tree / IGNORE_FILE).write_bytes(content)
    with pytest.raises(InvalidArgumentError, match=r"cannot be|more than"):
        Ignore.of_tree(tree)


def imported(tenant: Tenant, tree: Path) -> Seen:
    seen = Seen()
    for one in import_tree(tenant.id, tree, on_found=seen.add):
        assert one.imported != "failed", one
    return seen


def gone(tenant: Tenant, seen: Seen) -> list[str]:
    now = started_at(tenant.id)
    return ["/" + "/".join(path) for _, path in find_gone(tenant.id, seen, (), before=now)]


def test_only_documents_whose_files_are_gone_are_found(tenant: Tenant, tree: Path) -> None:
    tenant.write("/deep/made-by-an-application.txt", "text")
    assert gone(tenant, imported(tenant, tree)) == []
    (tree / "a.txt").unlink()
    (tree / "drafts" / "c.txt").rename(tree / "c.txt")
    assert gone(tenant, imported(tenant, tree)) == ["/a.txt", "/drafts/c.txt"]


def test_what_is_left_out_now_or_cannot_be_looked_at_is_not_gone(tenant: Tenant, tree: Path) -> None:
    imported(tenant, tree)
    (tree / IGNORE_FILE).write_text("drafts/\n")
    (tree / "a.txt").unlink()
    (tree / "a.txt").symlink_to("nowhere")
    seen = Seen()
    list(import_tree(tenant.id, tree, on_found=seen.add))
    assert gone(tenant, seen) == []


def test_a_document_that_came_while_the_tree_was_walked_is_left_alone(tenant: Tenant, tree: Path) -> None:
    begun_at = started_at(tenant.id)
    imported(tenant, tree)
    assert find_gone(tenant.id, Seen(), (), before=begun_at) == []


def test_the_command_shows_what_is_gone_and_asks_before_it_deletes(
    tenant: Tenant, tree: Path, stack: LocalStack
) -> None:
    arguments = ("import", tree, "--into", "/in", "--no-wait", "-o", tenant.slug)
    assert docworker(*arguments).exit_code == 0
    (tree / "a.txt").unlink()
    asked = docworker(*arguments, "--prune")
    assert "gone: /in/a.txt" in asked.err
    assert "1 documents will be deleted. Go on?" in asked.err
    stack.wait_for_replicas()
    assert "/in/a.txt" in [one.path for one in list_documents(tenant.id)]
    done = docworker(*arguments, "--prune", "--yes")
    assert (done.exit_code, "1 documents deleted" in done.err) == (0, True)
    stack.wait_for_replicas()
    assert [one.path for one in list_documents(tenant.id, deleted=True)] == ["/in/a.txt"]
