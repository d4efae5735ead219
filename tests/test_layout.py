"""The house: linked folders, one public name in one place, imports that point one way, clean lint and types, a whole wheel."""

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import solfa

ROOT = Path(__file__).parents[1]
PARTS = ["kernels", "tokenizers", "omni", "tts", "demos"]  # each may import those before it
FILES = sorted(path for part in PARTS for path in (ROOT / part).rglob("*.py"))


@pytest.mark.parametrize("part", PARTS)
def test_part_is_linked_and_has_no_init(part: str) -> None:
    assert (ROOT / "solfa" / part).is_symlink()
    assert (ROOT / "solfa" / part).resolve() == ROOT / part
    assert not list((ROOT / part).rglob("__init__.py")), "would hide Hugging Face's package when run from the root"


def test_tests_are_no_package() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_huggingface_is_not_hidden() -> None:
    code = "import tokenizers, transformers; print(tokenizers.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert not Path(found).is_relative_to(ROOT / "tokenizers")


def test_public_names_agree_and_resolve() -> None:
    assert sorted(solfa.__all__) == sorted(solfa._PUBLIC)
    typed = re.findall(
        r"^    from (solfa\.[\w.]+) import (\w+) as \2$", (ROOT / "solfa" / "__init__.py").read_text(), re.MULTILINE
    )
    assert {name: module for module, name in typed} == {
        name: f"solfa.{module}" for name, module in solfa._PUBLIC.items()
    }
    for name in solfa.__all__:
        assert getattr(solfa, name).__name__ == name
    with pytest.raises(AttributeError):
        solfa.nonsense  # noqa: B018


def test_import_solfa_loads_nothing_heavy() -> None:
    code = "import sys, solfa; print(*sorted(m for m in sys.modules if m.split('.')[0] in ('torch', 'numpy', 'rich', 'typer')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def imported(path: Path) -> set[str]:
    """Modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_dependencies_point_one_way(path: Path) -> None:
    part = path.relative_to(ROOT).parts[0]
    later = PARTS[PARTS.index(part) + 1 :]
    for module in imported(path):
        first, _, rest = module.partition(".")
        assert first != "solfa" or rest.split(".")[0] not in later, f"{part} imports {module}"
        assert first not in ("omni", "tts", "demos"), f"{module} should be solfa.{module}"
        assert first != "pickle"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_named_like_the_standard_library(path: Path) -> None:
    assert path.stem not in sys.stdlib_module_names


def test_models_do_not_import_training_or_files() -> None:
    for path in (ROOT / "tokenizers" / "audio" / "model.py", *(ROOT / "omni").glob("decoder*.py")):
        assert not {m for m in imported(path) if re.search(r"\.(train|losses|evaluate|audio_io|shards|corpus)\b", m)}


def run_tool(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff() -> None:
    run_tool("ruff", "check", ".")


def test_mypy() -> None:
    run_tool("mypy")


def test_ci_runs_the_readmes_test_command() -> None:
    """`.ci/run` takes the command from the README, by this marker."""
    block = re.search(
        r"<!-- test command -->\n+```\w*\n(.*?)\n```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert block is not None
    assert "\n" not in block[1]
    assert '-e ".[test]"' in block[1]
    assert block[1].endswith("-m pytest")
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy of the tree, so that no `build/` appears in it."""
    copy = tmp_path_factory.mktemp("build") / "solfa"
    copy.mkdir()
    for name in ["pyproject.toml", "README.md", "LICENSE"]:
        shutil.copy(ROOT / name, copy)
    for part in ["solfa", *PARTS]:
        shutil.copytree(ROOT / part, copy / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, check=True)
    return zipfile.ZipFile(next((copy / "dist").glob("*.whl")))


def test_wheel_holds_every_part_and_the_weights(wheel: zipfile.ZipFile) -> None:
    packed = set(wheel.namelist())
    assert {f"solfa/{path.relative_to(ROOT)}" for path in FILES} <= packed
    data = [
        path
        for path in (ROOT / "solfa").rglob("*")
        if path.suffix in (".json", ".safetensors", ".yaml", ".md", ".txt", ".typed")
    ]
    data += [
        path for part in PARTS for path in (ROOT / part).rglob("*") if path.suffix in (".json", ".yaml", ".txt", ".csv")
    ]
    wanted = {
        str(path.relative_to(ROOT)) if path.is_relative_to(ROOT / "solfa") else f"solfa/{path.relative_to(ROOT)}"
        for path in data
    }
    assert wanted <= packed
    assert "solfa/weights/codec-24khz/model.safetensors" in packed
    assert not {name for name in packed if name.startswith(("tests/", "tokenizers/", "docs/"))}


def test_shipped_weights_are_small_enough() -> None:
    size = sum(path.stat().st_size for path in (ROOT / "solfa" / "weights").rglob("*.safetensors"))
    assert size <= 95 * 2**20


def test_extras_cover_what_the_code_imports() -> None:
    """Every third-party module that a file imports is a dependency or in an extra."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [
        *project["dependencies"],
        *(line for lines in project["optional-dependencies"].values() for line in lines),
    ]
    names = {re.match(r"[\w-]+", line)[0].lower().replace("-", "_") for line in listed}  # type: ignore[index]
    renamed = {"yaml": "pyyaml"}
    for path in [*FILES, *(ROOT / "solfa").glob("*.py")]:
        for module in {m.split(".")[0] for m in imported(path)} - sys.stdlib_module_names - {"solfa", "__future__"}:
            if find_spec(module) is not None:
                assert renamed.get(module, module).lower() in names, f"{path.relative_to(ROOT)} imports {module}"
