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
FILES = sorted(path for part in ["solfa/core", *PARTS] for path in (ROOT / part).rglob("*.py"))
FILES += sorted((ROOT / "solfa").glob("*.py"))


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


# Folders from the lowest to the highest: a file may import from its own folder and from those before it.
FOLDERS = [
    "solfa/core",
    "kernels",
    "tokenizers/text",
    "tokenizers/audio",
    "tokenizers/audio/third_party/mimo",
    "tokenizers/audio/third_party",
    "tokenizers/audio/model",
    "tokenizers/audio/container",
    "tokenizers/datasets/readers",
    "tokenizers/datasets/shards",
    "tokenizers/datasets/commands",
    "tokenizers/evaluation",
    "tokenizers/training",
    "omni/decoder",
    "omni/model",
    "omni/generation",
    "omni/convert/families",
    "omni/convert",
    "omni/training",
    "omni/evaluation",
    "tts/style",
    "tts",
    "tts/data",
    "tts/training",
    "tts/evaluation",
    "demos",
    "solfa",
]


def imported(path: Path) -> set[str]:
    """Modules that a file imports, wherever in it, except for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return found


def folder_of(module: str) -> str | None:
    """The folder of a module of ours, `None` for anything else; `solfa` itself (its version) is nowhere."""
    parts = module.split(".")
    if parts[0] != "solfa":
        return None
    for end in range(len(parts), 1, -1):  # a name inside a module is shortened to the module
        place = ROOT.joinpath("solfa", *parts[1:end]).with_suffix(".py")
        if place.is_file():
            return str(place.resolve().parent.relative_to(ROOT))
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_between_folders_point_one_way(path: Path) -> None:
    own = str(path.relative_to(ROOT).parent)
    assert own in FOLDERS, f"{own} has no place in FOLDERS"
    for module in imported(path):
        first = module.split(".")[0]
        assert first not in ("omni", "tts", "demos"), f"{module} should be solfa.{module}"
        assert first != "pickle"
        other = folder_of(module)
        assert other is None or FOLDERS.index(other) <= FOLDERS.index(own), f"{own} imports {module}"


def test_the_folder_tree_in_the_documentation_is_the_real_one() -> None:
    """The indented tree of docs/how-it-works.md names each folder that holds code, and no other."""
    tree = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8").split("```")[1]
    shown: set[str] = set()
    path: list[str] = []
    for indent, name in re.findall(r"^( *)([\w-]+)/(?: |$)", tree, re.MULTILINE):
        path = [*path[: len(indent) // 2], name]
        shown.add("/".join(path))
    holds_code = {folder for folder in FOLDERS if list((ROOT / folder).glob("*.py"))}
    parents = {str(p) for folder in FOLDERS for p in Path(folder).parents if str(p) != "."}
    assert holds_code <= shown
    assert shown <= holds_code | parents | {"tests", "docs", "kernels"}


def test_files_and_functions_can_be_read_in_one_go() -> None:
    """At most 400 lines a file and 70 a function."""
    for path in [*FILES, *(ROOT / "tests").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                assert length <= 70, f"{path}:{node.lineno} {node.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_named_like_the_standard_library(path: Path) -> None:
    assert path.stem not in sys.stdlib_module_names


def test_models_do_not_import_training_or_files() -> None:
    for path in [*(ROOT / "tokenizers/audio/model").glob("*.py"), *(ROOT / "omni/decoder").glob("*.py")]:
        assert not {m for m in imported(path) if re.search(r"\.(training|evaluation|audio_file|datasets)\b", m)}


def run_tool(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff() -> None:
    run_tool("ruff", "check", ".")


def test_everything_is_formatted() -> None:
    run_tool("ruff", "format", "--check", ".")


def test_mypy() -> None:
    run_tool("mypy")


def test_ci_runs_the_readmes_test_command() -> None:
    """`.ci/run` takes the command from the README, by this marker."""
    block = re.search(
        r"<!-- test command -->\n+```\w*\n(.*?)\n```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert block is not None
    assert "\n" not in block[1]
    assert '-c constraints.txt -e ".[test]"' in block[1]
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
    for path in FILES:
        assert str(path.relative_to(ROOT / "solfa" if path.is_relative_to(ROOT / "solfa") else ROOT)) in {
            name.removeprefix("solfa/") for name in packed
        }
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


def test_constraints_pin_what_is_required() -> None:
    """Each requirement of the project and its test extra stands in constraints.txt, at a version in its range."""
    tomllib = pytest.importorskip("tomllib")
    requirements = pytest.importorskip("packaging.requirements")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for name, lines in extras.items() if name != "distill" for line in lines)]
    pins = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    for line in lines:
        wanted = requirements.Requirement(line)
        if wanted.name in ("solfa", "setuptools"):
            continue
        assert wanted.name.lower().replace("_", "-") in pins, f"{line} has no pin: run .ci/newest --write"
        assert wanted.specifier.contains(pins[wanted.name.lower().replace("_", "-")]), line


@pytest.mark.slow
def test_the_newest_versions_install_and_speak() -> None:
    """Ten minutes and gigabytes: what an installation without constraints resolves to."""
    subprocess.run(["bash", str(ROOT / ".ci" / "newest")], check=True)


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
    for path in FILES:
        for module in {m.split(".")[0] for m in imported(path)} - sys.stdlib_module_names - {"solfa", "__future__"}:
            if find_spec(module) is not None:
                assert renamed.get(module, module).lower() in names, f"{path.relative_to(ROOT)} imports {module}"
