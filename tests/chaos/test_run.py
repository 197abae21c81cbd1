"""`python -m tests.chaos.run` says in a sentence why there is no verdict."""

import sys
from pathlib import Path

import pytest

from tests.chaos import run


@pytest.mark.parametrize(
    ("content", "words"), [(None, "holds no evidence of a run"), (b"", "is no evidence that can be read")]
)
def test_a_folder_without_evidence_is_said_to_be_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    words: str,
) -> None:
    if content is not None:
        (tmp_path / run.EVIDENCE).write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["run", "--again", str(tmp_path)])
    assert run.main() == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"no verdict: {tmp_path}")
    assert words in line
