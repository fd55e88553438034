"""The flat file beside a data set: one safetensors file, memory-mapped, whose every byte is covered by a checksum.

The header's metadata holds one JSON string: the facts of the data set and a checksum of the whole file, taken with the
checksum's own digits set to zero. `build_once` lets one process build a set while the others wait for it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fenchel.envs.audit import audit, refuse
from fenchel.envs.dataset import COLUMNS, OfflineDataset
from fenchel.errors import UserError

FORMAT = 1
BLANK = "0" * 64


def data_folder() -> Path:
    """$FENCHEL_DATA, by default ~/.cache/fenchel."""
    return Path(os.environ.get("FENCHEL_DATA") or Path.home() / ".cache" / "fenchel")


def config_hash(config: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(dict(config), sort_keys=True).encode(), digest_size=5).hexdigest()


def save(data: OfflineDataset, path: str | Path) -> None:
    """Writes atomically: the file appears under its name when it is complete."""
    from safetensors.torch import save as encode

    path = Path(path)
    facts = json.dumps({"checksum": BLANK, "format": FORMAT, "meta": data.meta}, sort_keys=True)
    columns = {name: column.detach().cpu().contiguous() for name, column in data.columns().items()}
    content = bytearray(encode(columns, metadata={"fenchel": facts}))
    at = content.index(BLANK.encode())
    content[at : at + 64] = hashlib.blake2b(content, digest_size=32).hexdigest().encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | Path) -> OfflineDataset:
    """Raises UserError for a file that is missing, damaged, of another format, or refused by the audit."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise UserError(f"data file {path} does not exist.")
    damaged = UserError(f"data file {path} is damaged; delete it, and it is built again on the next use.")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["fenchel"])
            if not isinstance(facts, dict) or not _intact(path, str(facts.get("checksum"))):
                raise damaged
            columns = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, RecursionError):
        raise damaged from None
    if facts["format"] != FORMAT:
        raise UserError(f"data file {path} has format {facts['format']}, and this version reads {FORMAT}; delete it.")
    extras = {name: column for name, column in columns.items() if name not in COLUMNS}
    data = OfflineDataset(**{name: columns[name] for name in COLUMNS}, extras=extras, meta=facts["meta"])
    data.findings = audit(data)
    refuse(str(path), data.findings)
    return data


def _intact(path: Path, checksum: str) -> bool:
    content = bytearray(path.read_bytes())
    at = content.find(checksum.encode())
    if len(checksum) != 64 or at < 0:
        return False
    content[at : at + 64] = BLANK.encode()
    return hashlib.blake2b(content, digest_size=32).hexdigest() == checksum


def build_once(
    name: str, version: int, config: Mapping[str, Any], build: Callable[[], OfflineDataset]
) -> OfflineDataset:
    """The set `name` for this configuration from the data folder, built first if it is not there.

    Processes that ask at once build once: the first holds a file lock, the others wait and read.
    """
    path = data_folder() / f"{name}-v{version}-{config_hash(config)}.safetensors"
    if not path.exists():
        with locked(path):
            for stale in path.parent.glob(f"{path.name}.tmp*"):  # of a process that was killed
                stale.unlink()
            if not path.exists():
                data = build()
                data.meta |= {"name": name, "version": version, "config": dict(config)}
                save(data, path)
    return load(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    from filelock import FileLock

    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise UserError(f"FENCHEL_DATA={path.parent} cannot be written: {error.strerror}.") from None
    try:
        yield
    finally:
        lock.release()
