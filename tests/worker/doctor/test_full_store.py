"""A store without room is told with what helps, which is not to make the directory."""

from docworker.db.settings import settings
from docworker.worker.doctor.machine import examine_machine
from tests.support.disks import fill, mounted
from tests.support.stack import applied, temporary_directory


def test_a_full_store_is_named() -> None:
    with temporary_directory() as directory, mounted(directory / "disk", size="512k") as disk:
        (disk / "store").mkdir()
        fill(disk)
        with applied({"DOCWORKER_STORE": str(disk / "store")}):
            (found,) = (one for one in examine_machine(settings()) if one.subject == "DOCWORKER_STORE")
    assert "No space left on device" in found.fault
    assert found.remedy == "make room there, or move it"
