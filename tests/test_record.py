"""Recording a chapter: what is kept, what is refused, and what an interruption leaves."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_course
from nbformat.v4 import new_output
from small_course import cell

from utils import instep, notebooks, outputs, record

ROOT = Path(__file__).resolve().parents[1]
BUSY = "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(60)"


def run(root, *arguments):
    return record.main(["--root", str(root), *map(str, arguments)])


@pytest.fixture
def quiet_signals():
    """`main` installs a handler for SIGTERM; put the old one back."""
    old = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, old)


pytestmark = pytest.mark.usefixtures("quiet_signals")


def test_what_a_recording_holds_and_that_a_second_one_says_the_same(tmp_path, capsys):
    root = small_course.make(
        tmp_path / "course",
        one=[
            "Text.",
            cell("import utils.data\nutils.data.load()"),
            cell(
                "import os\n"
                "for name in 'COURSE_PROFILE COURSE_DEVICE TQDM_DISABLE PYTHONHASHSEED'.split():\n"
                "    print(os.environ[name])\n"
                "print(os.path.basename(os.getcwd()), hash('a'))",
                "tags: [nbval-ignore-output]",
            ),
            cell(
                "import sys, time\n"
                "for k in range(3):\n"
                "    print(k, flush=True); time.sleep(0.05)\n"
                "    print('\\r', k, end='', file=sys.stderr, flush=True)\n"
                "{'b', 'a', 'c'}"
            ),
            cell("1 / 0", "tags: [raises-exception]"),
            cell("# nothing to see"),
        ],
    )
    ipynb = root / "chapters" / "one.ipynb"
    assert run(root, "--profile", "cpu", "--device", "cpu") == 0
    assert "one: recorded, 6 cells" in capsys.readouterr().out
    first = ipynb.read_text()
    notebook = notebooks.read_notebook(ipynb)
    environment, streams, error = notebooks.code_of(notebook)[2:5]
    assert environment.outputs[0].text.splitlines()[:4] == ["cpu", "cpu", "1", "0"]
    assert environment.outputs[0].text.splitlines()[4].startswith("chapters ")
    assert [out.get("text") for out in streams.outputs[:2]] == ["0\n1\n2\n", " 2"]
    assert error.outputs[0].ename == "ZeroDivisionError"
    course = notebooks.provenance(notebook)
    assert course["profile"] == "cpu"
    assert course["data"] == {
        "source": "image files",
        "sha256": "0123456789abcdef",
        "synthetic": False,
    }
    chapter = notebooks.read_chapter(root / "chapters" / "one.md")
    assert course["code_hash"] == notebooks.code_hash(chapter.code)
    assert course["utils_hash"] == notebooks.utils_hash(root)
    assert set(course) == {
        *("recorded", "device", "torch", "python", "profile", "seeds", "seconds", "data"),
        *("code_hash", "utils_hash"),
    }
    # Its text is as authored until a build has resolved it.
    assert "Run: make book" in instep.check(root)[0]

    assert run(root, "--profile", "smoke") == 0
    assert "one: recording is current" in capsys.readouterr().out
    assert run(root, "--profile", "cpu", "--device", "cpu", "--force") == 0

    def timeless(text):
        return re.sub(r'"(seconds|recorded)": .*', "", text)

    assert timeless(ipynb.read_text()) == timeless(first)
    assert not list((root / "chapters").glob(".*"))


def test_failed_cell_says_where_and_leaves_the_old_recording(tmp_path, capsys):
    root = small_course.make(
        tmp_path / "course",
        bad=["Text.", cell("x = 1"), cell("def f():\n    raise ValueError('no luck')\nf()")],
        good=[cell("print(1)")],
    )
    old = small_course.pretend(root, "bad").read_text()
    md = root / "chapters" / "bad.md"
    md.write_text(md.read_text().replace("x = 1", "x = 2"))
    line = md.read_text().splitlines().index("def f():")  # counted from 1: the fence before it
    assert run(root) == 1
    said = capsys.readouterr()
    assert "\x1b" not in said.err  # no colours outside a terminal
    assert f"chapters/bad.md:{line}: cell 3 of 3 failed: ValueError: no luck" in said.err
    assert said.err.index("Traceback") < said.err.index("cell 3 of 3")
    assert "make record CHAPTER=bad" in said.err
    assert said.err.rstrip().endswith("Not recorded: bad")
    assert md.with_suffix(".ipynb").read_text() == old
    assert "good: recorded" in said.out  # one chapter's failure does not cost the others


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        ("import time; time.sleep(30)", ["--timeout", "1"], "did not finish in 1 s; allow more"),
        ("import os; os._exit(1)", [], "the kernel died"),
        (
            "from IPython.display import display\n"
            "display({'application/vnd.jupyter.widget-view+json': {}}, raw=True)",
            [],
            "cell 2 shows a widget",
        ),
        ("import utils.data; utils.data.load(synthetic=True)", [], "ran on the synthetic stand-in"),
    ],
    ids=["timeout", "dead kernel", "widget", "stand-in"],
)
def test_refused(tmp_path, capsys, source, arguments, message):
    root = small_course.make(tmp_path / "course", one=[cell(source)])
    assert run(root, *arguments) == 1
    assert message in capsys.readouterr().err
    assert not (root / "chapters" / "one.ipynb").exists()


def test_stand_in_only_into_another_folder(tmp_path, capsys):
    root = small_course.make(
        tmp_path / "course", one=[cell("import utils.data; utils.data.load(synthetic=True)")]
    )
    with pytest.raises(SystemExit, match="2"):
        run(root, "--allow-stand-in")
    assert "--allow-stand-in needs --output" in capsys.readouterr().err
    assert run(root, "--allow-stand-in", "--output", tmp_path / "trial") == 0
    trial = notebooks.read_notebook(tmp_path / "trial" / "one.ipynb")
    assert notebooks.provenance(trial)["data"]["synthetic"] is True
    assert not (root / "chapters" / "one.ipynb").exists()


# ---- interruption -------------------------------------------------------------------------------


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_in_mid_cell(tmp_path, capsys, kill):
    root = small_course.make(tmp_path / "course", done=[cell("print(1)")], slow=[cell(BUSY)])
    old = small_course.pretend(root, "slow").read_text()
    md = root / "chapters" / "slow.md"
    md.write_text(md.read_text().replace("sleep(60)", "sleep(61)"))
    process = subprocess.Popen(
        [sys.executable, "-m", "utils.record", "--root", str(root)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts jobs in the background makes them deaf to SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    pid = root / "chapters" / "pid"
    wait_for(lambda: pid.exists() and pid.read_text())
    process.send_signal(kill)
    out, err = process.communicate(timeout=60)
    assert "done: recorded, 2 cells" in out
    if kill != signal.SIGKILL:
        assert process.returncode == 130
        assert "slow: interrupted in cell 2/2, nothing of it written" in out
        assert err == "Recorded before: done. The same command goes on from here.\n"
    # Whatever happened: whole files, old and new, and no kernel that works on.
    assert md.with_suffix(".ipynb").read_text() == old
    assert notebooks.stale_reason(root / "chapters" / "done.md") == ""
    assert not list((root / "chapters").glob(".*"))
    wait_for(lambda: not alive(int(pid.read_text())))

    # And the same command goes on where it stopped.
    md.write_text(md.read_text().replace("sleep(61)", "sleep(0)"))
    assert run(root) == 0
    said = capsys.readouterr().out
    assert "done: recording is current" in said
    assert "slow: recorded" in said


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie is dead; whoever inherited it has not looked yet.
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] == "Z")


# ---- the command line ---------------------------------------------------------------------------


def test_unknown_chapter_names_the_known(tmp_path, capsys):
    root = small_course.make(tmp_path / "course", one=[], two=[])
    with pytest.raises(SystemExit, match="2"):
        run(root, "--chapter", "on")
    assert "no chapter on in _toc.yml; there are one, two" in capsys.readouterr().err


def test_one_recording_at_a_time(tmp_path, capsys):
    root = small_course.make(tmp_path / "course", one=[])
    (root / "_build").mkdir()
    with record.FileLock(root / "_build" / "record.lock"):
        assert run(root) == 1
    assert "Another recording is running in this checkout" in capsys.readouterr().err


def test_current_asks_for_code_profile_and_real_data(tmp_path):
    root = small_course.make(tmp_path / "course", one=[cell("x = 1")])
    assert not record.current("one", "smoke", root)
    small_course.pretend(root, "one", profile="cpu")
    assert record.current("one", "smoke", root)
    assert record.current("one", "cpu", root)
    assert not record.current("one", "full", root)
    small_course.pretend(root, "one", profile="cpu", data={"source": "x", "synthetic": True})
    assert not record.current("one", "smoke", root)
    ipynb = small_course.pretend(root, "one")
    ipynb.write_text(ipynb.read_text().replace("x = 1", "x = 2"))
    assert not record.current("one", "smoke", root)
    ipynb.write_text("broken")
    assert not record.current("one", "smoke", root)


# ---- outputs ------------------------------------------------------------------------------------


def test_tidy_merges_streams_between_displays():
    def stream(name, text):
        return new_output("stream", name=name, text=text)

    picture = new_output("display_data", {"text/plain": "<Figure>"})
    got = outputs.tidy(
        [
            *(stream("stderr", "e"), stream("stdout", "a"), stream("stderr", "f\n")),
            *(stream("stdout", "b"), picture, stream("stdout", "c")),
        ],
        ROOT,
    )
    assert [(out.get("name"), out.get("text")) for out in got] == [
        ("stdout", "ab"),
        ("stderr", "ef\n"),
        (None, None),
        ("stdout", "c"),
    ]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("10%\r50%\r100%\ndone\n", "100%\ndone\n"),
        ("100%\r\nnext", "100%\nnext"),
        ("half\r", "half"),
        ("<object at 0x7f0a>", "<object at 0x7f0a>"),
        (f"{ROOT}/utils/data.py:3: hm", "utils/data.py:3: hm"),
        ("/opt/env/lib/python3.11/site-packages/torch/a.py:1", "site-packages/torch/a.py:1"),
        ("/tmp/ipykernel_123/456.py:2: UserWarning", "<cell>:2: UserWarning"),
        ("a / b", "a / b"),
    ],
)
def test_tidy_text(text, kept):
    (out,) = outputs.tidy([new_output("stream", name="stdout", text=text)], ROOT)
    assert out.text == kept


def test_kernel_banners_are_not_published():
    banner = "[IPKernelApp] WARNING | Kernel is running over TCP without encryption\n"
    (out,) = outputs.tidy([new_output("stream", name="stderr", text=banner + "mine\n")], ROOT)
    assert out.text == "mine\n"
    assert outputs.tidy([new_output("stream", name="stderr", text=banner)], ROOT) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (552, "9 min 12 s"), (7384, "2 h 3 min")],
)
def test_duration(seconds, words):
    assert notebooks.duration(seconds) == words
