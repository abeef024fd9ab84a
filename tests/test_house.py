"""The shape of the house is kept: bounds that fall, imports that point to the ground, a light door."""

import subprocess
import sys

import pytest

from tests.house import FOLDERS, PACKAGE, RAW, ROOT, House, idea

HEAVY = ("torch", "lightning", "torchvision", "transformers", "timm", "torchmetrics", "wandb", "sklearn")
# Folders of tests whose subject lies beside the package: benchmarks/, conf/method/.
BESIDE = {"benchmarks", "methods", "goldens"}


@pytest.fixture(scope="module")
def house():
    return House()


def test_raw_configuration_ends_at_the_door(house):
    raw = house.raw_parameters()
    assert sum(raw.values()) <= 20
    assert len(raw) <= 9
    assert [name for name in raw if not f"{name}.".startswith(tuple(f"{one}." for one in RAW))] == []


def test_no_circle_of_imports(house):
    assert house.circles() == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_only_those_below_it(house, folder):
    assert [one for one in house.upward() if one.startswith(f"kd_lightning.{folder}.")] == []


def test_every_folder_stands_in_the_order():
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()} == set(FOLDERS)


def test_nothing_private_is_imported_across_folders(house):
    assert house.private() == []


def test_files_and_functions_are_short(house):
    assert house.long_files() == []
    assert house.long_functions() == []


def test_a_task_is_named_in_its_rooms_only(house):
    assert len(house.task_switches()) <= 19


def test_a_role_is_named_in_its_room_only(house):
    assert house.role_switches() == []


def test_every_folder_says_its_idea():
    for path in PACKAGE.rglob("__init__.py"):
        said = idea(path.parent)
        assert said.endswith("."), path
        assert len(said) <= 117, path


def test_tests_lie_where_their_subject_lies():
    for path in (ROOT / "tests").rglob("test_*.py"):
        place = path.parent.relative_to(ROOT / "tests")
        assert str(place).split("/")[0] in BESIDE or (PACKAGE / place).is_dir(), path


def test_the_map_is_that_of_the_folders():
    done = subprocess.run([sys.executable, "docs/generate_map.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_composing_a_command_imports_nothing_heavy():
    code = (
        "import sys; sys.argv=['kd_lightning', '+experiment=digits_resnet', '--cfg', 'job'];"
        "from kd_lightning.__main__ import main; main();"
        f"heavy=[m for m in {HEAVY!r} if m in sys.modules]; sys.exit(f'imported {{heavy}}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "name: digits_resnet" in done.stdout
