"""Where the pictures of each split and class lie, in folders as people make them."""

from __future__ import annotations

import logging
from pathlib import Path

from kd_lightning.data.images.preprocess import open_picture
from kd_lightning.data.split import NAMES, split_called

log = logging.getLogger(__name__)

EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")


def find_splits(root: Path) -> dict[str, Path]:
    """Folders whose subfolders are classes, by split, ``train`` first: ``root`` itself where it names no split.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: Splits without training, two folders for one split, or classes that lie one folder further down.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"No folder {root.absolute()}; set data.root to a folder with one per class.")
    named: dict[str, list[Path]] = {}
    for folder in subfolders(root):
        if split := split_called(folder.name):
            named.setdefault(split, []).append(folder)
    folders: dict[str, Path] = {}
    for split, found in named.items():
        with_classes = [folder for folder in found if subfolders(folder)]
        if len(with_classes) > 1:
            raise ValueError(f"{root} has {' and '.join(f.name for f in with_classes)}: which is the {split} split?")
        if with_classes:
            folders[split] = with_classes[0]
    flat = [folder for found in named.values() for folder in found if folder not in folders.values()]
    if "train" not in folders and folders:
        raise ValueError(f"{root} has {', '.join(f.name for f in folders.values())}/ but no train/ with classes.")
    if not folders:
        _check_depth(root)
        return {"train": root}
    for folder in flat:
        pictures = len(find_pictures(folder)[0])
        log.warning(
            "%s: left out: %d pictures that are in no class folder (nothing says what they are)", folder, pictures
        )
    others = [folder.name for folder in subfolders(root) if folder not in folders.values() and folder not in flat]
    if others:
        log.warning("%s: left out: the folders %s, which are no splits", root, ", ".join(others))
    return {split: folders[split] for split in NAMES if split in folders}


def _check_depth(root: Path) -> None:
    """Refuse a root whose subfolders hold the splits or the classes, instead of being classes.

    Raises:
        ValueError: With the folder that was probably meant.
    """
    parts = subfolders(root)
    called = [split_called(part.name) for part in parts]
    if "train" in called and all(called):
        raise ValueError(
            f"{parts[called.index('train')]} has no folders, of which each is a class: nothing says what its pictures"
            " are. Sort them into one folder a class."
        )
    for part in parts:
        if any(split_called(folder.name) for folder in subfolders(part)) and find_pictures(part)[0]:
            raise ValueError(f"{root} is one folder too high: the splits lie in {part}. Set data.root={part}")
    if len(parts) == 1 and len(subfolders(parts[0])) > 1 and not pictures_beside(parts[0]):
        raise ValueError(
            f"{root} holds one folder only, '{parts[0].name}', so there would be one class. Its own folders look like"
            f" classes: set data.root={parts[0]}"
        )


def subfolders(folder: Path) -> list[Path]:
    """Folders in ``folder`` in the order of their names, hidden ones left out."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def pictures_beside(folder: Path) -> bool:
    """Whether pictures lie in ``folder`` itself."""
    return any(path.is_file() and is_picture(path) for path in folder.iterdir())


def find_pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """Pictures below ``folder``, and the other files; hidden ones left out."""
    pictures: list[Path] = []
    others: list[Path] = []
    for path in sorted(folder.rglob("*")):
        if not path.name.startswith(".") and path.is_file():
            (pictures if is_picture(path) else others).append(path)
    return pictures, others


def is_picture(path: Path) -> bool:
    """Whether a file is a picture: by its ending, and where that says nothing by its first bytes."""
    if path.suffix.lower() in EXTENSIONS:
        return True
    try:
        with open_picture(path):
            return True
    except Exception:  # every PIL plugin fails in its own way on what is no picture
        return False
