"""What is installed here is under licences that are allowed, and what is not so is noticed."""

from importlib.metadata import distributions
from pathlib import Path

from tests.support.licences import refused


def plant(directory: Path, name: str, *lines: str) -> None:
    """A package of this name, which says these lines of itself."""
    metadata = directory / f"{name}-1.0.dist-info"
    metadata.mkdir()
    said = "\n".join(("Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *lines))
    (metadata / "METADATA").write_text(f"{said}\n")


def test_what_is_installed_is_allowed() -> None:
    assert refused(distributions()) == []


def test_a_licence_that_is_not_allowed_is_refused_however_it_is_told(tmp_path: Path) -> None:
    osi = "Classifier: License :: OSI Approved ::"
    plant(tmp_path, "allowed", "License-Expression: MIT")
    plant(tmp_path, "either", "License-Expression: GPL-2.0-only OR (MIT AND BSD-3-Clause)")
    plant(tmp_path, "classified", f"{osi} MIT License")
    plant(tmp_path, "protobuf", "License: 3-Clause BSD License")
    assert refused(distributions(path=[str(tmp_path)])) == []

    plant(tmp_path, "free", "License-Expression: GPL-3.0-or-later")
    plant(tmp_path, "mixed", "License-Expression: MIT AND AGPL-3.0-only")
    plant(tmp_path, "excepted", "License-Expression: GPL-2.0-only WITH Classpath-exception-2.0")
    plant(tmp_path, "of-both", f"{osi} MIT License", f"{osi} GNU General Public License v3 (GPLv3)")
    plant(tmp_path, "in-words", "License: as you like")
    plant(tmp_path, "pypdfium2", "License: something else than it was")
    plant(tmp_path, "silent")
    assert [line.split()[0] for line in refused(distributions(path=[str(tmp_path)]))] == [
        "excepted",
        "free",
        "in-words",
        "mixed",
        "of-both",
        "pypdfium2",
        "silent",
    ]
