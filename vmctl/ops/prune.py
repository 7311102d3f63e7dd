"""``vmctl system prune`` and ``vmctl system df``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from vmctl.app import App
from vmctl.backends.base import Ref
from vmctl.model.ids import is_id
from vmctl.model.views import ActionResult, DiskUsageRow
from vmctl.ops.observe import observe


def prune(app: App, *, dry_run: bool = False) -> list[ActionResult]:
    """Remove what belongs to no instance: bodies and folders without a row, image data without a name.

    What dead commands left half made goes at the start of this command, as of every other. Instances stay.
    """
    if dry_run:
        freed = sum(row.reclaimable for row in app.images.usage())
        results = [ActionResult(name=folder.name, action="would remove", detail=str(folder)) for folder in _stale(app)]
        return [*results, *_images(freed, "would free")]
    observe(app)
    results = []
    for folder in _stale(app):
        _remove_folder(app, folder)
        results.append(ActionResult(name=folder.name, action="removed", detail=str(folder)))
    in_use = {record.image_digest for record in app.ledger.instances() if record.image_digest}
    return [*results, *_images(app.images.prune(in_use), "freed")]


def disk_usage(app: App) -> list[DiskUsageRow]:
    """What vmctl keeps on disk, in allocated bytes."""
    folders = _folders(app)
    stale = _stale(app)
    instances = DiskUsageRow(
        what="instances",
        count=len(folders),
        size=sum(_allocated(folder) for folder in folders),
        reclaimable=sum(_allocated(folder) for folder in stale),
    )
    return [instances, *app.images.usage()]


def _images(freed: int, action: str) -> list[ActionResult]:
    return [ActionResult(name="images", action=action, detail=f"{freed} bytes")] if freed else []


def _folders(app: App) -> list[Path]:
    if not app.paths.instances.is_dir():
        return []
    return sorted(folder for folder in app.paths.instances.iterdir() if is_id(folder.name))


def _stale(app: App) -> list[Path]:
    """Folders of no instance. The folders are listed first: a new one always has its row already."""
    folders = _folders(app)
    known = {record.id for record in app.ledger.instances()}
    return [folder for folder in folders if folder.name not in known]


def _remove_folder(app: App, folder: Path) -> None:
    """Whichever backend made it undoes what it mounted there first; deleting what is not its own does nothing."""
    from vmctl.backends.registry import backend_names

    for name in backend_names():
        app.backend(name).delete(Ref(folder.name, folder))
    shutil.rmtree(folder, ignore_errors=True)


def _allocated(folder: Path) -> int:
    """Bytes on disk of a folder's files, sparse files counted as stored; other file systems mounted below are not."""
    total = 0
    device = folder.stat().st_dev
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if os.lstat(os.path.join(path, name)).st_dev == device]
        total += sum(os.lstat(os.path.join(path, name)).st_blocks * 512 for name in files)
    return total
