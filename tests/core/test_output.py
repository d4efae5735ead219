import os
from pathlib import Path

import pytest

from solfa.core.errors import UserError
from solfa.core.output import check_output


def test_what_can_be_written_passes_and_leaves_nothing(tmp_path: Path) -> None:
    check_output(tmp_path / "x.csv")
    check_output(tmp_path / "new" / "folder" / "x.csv")
    assert list(tmp_path.iterdir()) == []


def test_folders_files_in_the_way_and_long_names_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place, why in (
        (tmp_path, "is a folder"),
        (tmp_path / "file" / "x.csv", "cannot be written"),
        (tmp_path / ("a" * 300) / "x", "cannot"),
    ):
        with pytest.raises(UserError, match=why):
            check_output(place)


@pytest.mark.skipif(
    os.name == "nt" or os.geteuid() == 0 and not Path("/proc/self").exists(), reason="no place is forbidden"
)
def test_a_forbidden_place_is_one_sentence(tmp_path: Path) -> None:
    forbidden = Path("/proc") if os.geteuid() == 0 else tmp_path
    if forbidden == tmp_path:
        tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"):
        check_output(forbidden / "x.csv")
