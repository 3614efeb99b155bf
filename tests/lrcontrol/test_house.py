"""The house holds however it is used: five ways of having it, light imports, floors that import downwards only."""

import ast
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import lrcontrol

ROOT = Path(__file__).resolve().parents[2]
FLOORS = {"envs": (), "agents": ("envs",), "lrcontrol": ("envs", "agents", "lrcontrol")}
SOURCES = ["pyproject.toml", "README.md", "LICENSE", "lrcontrol", "envs", "agents"]
PROBE = """
import importlib.metadata, sys
import lrcontrol, lrcontrol.envs, lrcontrol.agents, gymnasium
lrcontrol.make_task("digits-mlp"), lrcontrol.agents.make_agent("hillclimb")
gymnasium.make("lrcontrol/digits-mlp-v0").reset(seed=0)
print(lrcontrol.__file__, lrcontrol.envs.__file__, lrcontrol.agents.__file__, sep="\\n")
"""


def run(*command, cwd, **environment):
    cleaned = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=cleaned | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def copy_of_sources(tmp_path_factory):
    """Return a function that copies what a clone holds, with links or without them."""

    def copy(links=True):
        folder = tmp_path_factory.mktemp("clone")
        for name in SOURCES:
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
            else:
                shutil.copy(ROOT / name, folder / name)
        if not links:
            for name in ("envs", "agents"):  # what git writes where links are not supported
                (folder / "lrcontrol" / name).unlink()
                (folder / "lrcontrol" / name).write_text(f"../{name}")
        return folder

    return copy


@pytest.fixture
def python(tmp_path):
    """Return the Python of a new environment that borrows this one's packages, but not its lrcontrol.

    Only what site-packages itself holds is seen: the .pth file that an editable lrcontrol leaves there is not read.
    """
    folder = tmp_path / "venv"
    venv.create(folder, symlinks=os.name != "nt")
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    (site,) = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path)
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    Path(site, "borrowed.pth").write_text("\n".join(borrowed))
    return python


def install(python, *arguments, cwd):
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-build-isolation", *arguments, cwd=cwd)


def is_inside(paths, folder):
    return [Path(path).resolve().is_relative_to(Path(folder).resolve()) for path in paths] == [True] * 3


def test_editable_install(python, copy_of_sources, tmp_path):
    clone = copy_of_sources()
    install(python, "-e", clone, cwd=tmp_path)
    assert is_inside(run(python, "-c", PROBE, cwd=tmp_path), clone)


def test_plain_install_and_then_running_from_the_root(python, copy_of_sources, tmp_path):
    clone = copy_of_sources()
    install(python, clone, cwd=tmp_path)
    shutil.rmtree(clone / "build", ignore_errors=True)
    assert is_inside(run(python, "-c", PROBE, cwd=tmp_path), tmp_path / "venv")
    assert is_inside(run(python, "-c", PROBE, cwd=clone), clone)


def test_the_built_wheel_elsewhere(python, copy_of_sources, tmp_path):
    clone = copy_of_sources()
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        clone,
        cwd=clone,
    )
    (wheel,) = tmp_path.glob("lrcontrol-*.whl")
    shutil.rmtree(clone)
    install(python, wheel, cwd=tmp_path)
    assert is_inside(run(python, "-c", PROBE, cwd=tmp_path), tmp_path / "venv")
    (version,) = run(python, "-c", "import importlib.metadata as m; print(m.version('lrcontrol'))", cwd=tmp_path)
    assert version == lrcontrol.__version__
    page = "from lrcontrol.report_html import ASSETS; print((ASSETS / 'page.html').read_text()[:15])"
    assert run(python, "-c", page, cwd=tmp_path) == ["<!doctype html>"]
    plugin = (
        "import importlib.metadata as m; [p] = m.entry_points(group='gymnasium.envs', name='lrcontrol'); p.load()()"
    )
    run(python, "-c", plugin, cwd=tmp_path)


def test_a_bare_checkout(python, copy_of_sources):
    clone = copy_of_sources()
    assert is_inside(run(python, "-c", PROBE, cwd=clone), clone)


def test_a_clone_without_symbolic_links(python, copy_of_sources, tmp_path):
    clone = copy_of_sources(links=False)
    assert is_inside(run(python, "-c", PROBE, cwd=clone), clone)
    install(python, clone, cwd=tmp_path)
    assert is_inside(run(python, "-c", PROBE, cwd=tmp_path), tmp_path / "venv")


def test_the_two_links_are_relative():
    for name in ("envs", "agents"):
        assert os.readlink(ROOT / "lrcontrol" / name) == f"../{name}"


def test_importing_lrcontrol_does_no_work():
    code = "import sys, lrcontrol; print(*sorted(m for m in sys.modules if m.split('.')[0] in sys.argv[1:]))"
    heavy = ("torch", "numpy", "gymnasium", "scipy", "matplotlib", "stable_baselines3", "pyarrow", "sklearn", "rich")
    assert run(sys.executable, "-c", code, *heavy, cwd=ROOT) == [""]


def test_evaluation_brings_in_neither_stable_baselines3_nor_figures_before_they_are_used():
    code = "import sys, lrcontrol.evaluate_cli, lrcontrol.train_cli\n"
    code += "print(*sorted(m for m in sys.modules if m.split('.')[0] in sys.argv[1:]))"
    assert run(sys.executable, "-c", code, "scipy", "matplotlib", "stable_baselines3", "sklearn", cwd=ROOT) == [""]


def test_every_export_is_there_and_an_unknown_name_is_an_attribute_error():
    assert sorted(lrcontrol.__all__) == lrcontrol.__all__
    for name in lrcontrol.__all__:
        assert getattr(lrcontrol, name) is not None
    assert set(lrcontrol.__all__) <= set(dir(lrcontrol))
    with pytest.raises(AttributeError, match="has no attribute 'evaluat'"):
        lrcontrol.evaluat  # noqa: B018 (the access is the test)


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_go_down_only(floor):
    own = {"envs": "lrcontrol.envs", "agents": "lrcontrol.agents", "lrcontrol": "lrcontrol"}
    allowed = tuple(own[name] for name in (floor, *FLOORS[floor]))
    files = list((ROOT / floor).glob("*.py"))
    assert len(files) > 3
    for path in files:
        for name in imports_of(path):
            if name.split(".")[0] == "lrcontrol":
                assert name.startswith(allowed), f"{path.name} imports {name}"


def test_the_top_level_holds_what_it_should():
    tracked = run("git", "ls-files", cwd=ROOT) if (ROOT / ".git").exists() else pytest.skip("not a git checkout")
    top = {name.split("/")[0] for name in tracked}
    beside = {"LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "constraints.txt", ".gitignore", ".ci"}
    assert (
        top == {"pyproject.toml", "README.md", "lrcontrol", "envs", "agents", "tests", "experiments", "docs"} | beside
    )
