"""A torchaudio that does not fit the installed torch ends in one sentence with the remedy."""

import os
import subprocess
import sys
from pathlib import Path


def test_a_torchaudio_that_does_not_load_is_one_sentence(tmp_path: Path) -> None:
    broken = tmp_path / "torchaudio"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise OSError('undefined symbol: torch_exception_get_what_without_backtrace')")
    done = subprocess.run(
        [sys.executable, "-m", "solfa", "say", "Hello.", "-o", str(tmp_path / "hello.wav")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("solfa: torchaudio ") and "pip install -c constraints.txt" in done.stderr
    assert done.stderr.count("\n") == 1
