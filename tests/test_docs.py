"""The pages: every command of them exists, with its options; some are run on tiny data; links lead on.

A command is a line of a fenced block without a language or of bash, or code in the text that begins as
one, such as `python plot.py ...`. Each is parsed by the parser of its script, without running it. The
blocks below the headings in CHAINS are run, with tiny networks, and so are all blocks of Python. Other
fenced blocks name what they hold (csv, json, text).
"""

import argparse
import importlib
import importlib.util
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tyro

import train
from training import engine

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "checkpoints/README.md",
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("results/*.md"),
]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(PAGES)}
LONGEST = {"README.md": 200, "results/README.md": 150}  # lines
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OTHER_LANGUAGES = {"csv", "json", "text", "bibtex"}
# Programs of others, and shell builtins, whose options are not checked.
OTHER_PROGRAMS = {"source", "venv", "pytest", "ruff", "my-sensor"}
OPTIONAL_PACKAGES = {"onnx", "onnxruntime", "tensorboard"}

# Headings of the blocks that are run, in this order, in a folder with tiny raw data.
CHAINS = [
    ("README.md", "Try it"),  # synthesize, convert, train, test
    ("docs/predict.md", "Recognising files"),
    ("docs/settings.md", "Settings"),
    ("docs/evaluation.md", "Ensembles"),
    ("docs/data.md", "Your own recordings"),
    ("docs/data.md", "2D data"),
]
TINY = {
    "synthesize.py": "--actions 10 24 --subjects 3 --replications 1",
    "train.py": "--epochs 1 --hidden_size 4 --part_hidden_size 4 --window_size 12 --spatial_window 12",
}


class Parsed(Exception):
    """Raised in place of doing what a command line says."""


# --- Commands of the pages ----------------------------------------------------------------------------


def fenced(page):
    """(language, text, heading above it) of each fenced block."""
    for match in FENCE.finditer(PAGES[page]):
        headings = re.findall(r"^#+ (.+)$", FENCE.sub("", PAGES[page][: match.start()]), re.MULTILINE)
        yield match[1], match[2], headings[-1]


def spans(page):
    """The pieces of code in the text."""
    text = re.sub(r"<!--.*?-->", "", FENCE.sub("", PAGES[page]), flags=re.DOTALL)
    return [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", text)]


def lines_of(block):
    lines = block.replace("\\\n", " ").splitlines()  # (a line may go on after a backslash)
    return [line for line in lines if line.split("#")[0].strip()]


def commands(page):
    blocks = [
        line
        for language, text, _ in fenced(page)
        if language in ("", "bash")
        for line in lines_of(text)
    ]
    starts = ("python ", "pip ", "make ", "torchrun ", "source ")
    return blocks + [span for span in spans(page) if span.startswith(starts)]


def script_main(script):
    """What running a script calls. ValueError if there is no such script."""
    path = ROOT / script
    if not path.is_file():
        raise ValueError(f"{script} is missing")
    if path.parent == ROOT / "docs":
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(path.stem)
    return module.run_command if script == "train.py" else module.main


def parse_script(script, arguments, monkeypatch):
    """ValueError if the script does not exist or does not take these arguments."""
    if script == "cross_validate.py" and "--ensemble" not in arguments:  # options of train.py
        script, arguments = "train.py", arguments[1:]
    main = script_main(script)

    def stop(parse):
        def parse_and_stop(*args, **kwargs):
            raise Parsed(parse(*args, **kwargs))

        return parse_and_stop

    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [script, *arguments])
        if script == "train.py":
            patch.setattr(tyro, "cli", stop(tyro.cli))
            patch.setattr(train, "read_config", lambda _: train.make_config())
        else:
            patch.setattr(
                argparse.ArgumentParser, "parse_args", stop(argparse.ArgumentParser.parse_args)
            )
        try:
            main()
        except Parsed as parsed:
            if script == "train.py":
                train.validate(parsed.args[0].config)
        except SystemExit as error:
            if error.code:
                raise ValueError(f"{script} does not take {' '.join(arguments)}") from None


def check_command(line, monkeypatch):
    """ValueError for a command that cannot be run as it stands."""
    for part in line.split(" | "):
        program, *arguments = shlex.split(part.replace("\\", "/"), comments=True)
        if Path(program).name in ("python", "pip"):
            program = Path(program).name
        if program == "python" and arguments[0] == "-m":
            program, *arguments = arguments[1:]
        if program in OTHER_PROGRAMS:
            continue
        if program == "python":
            parse_script(arguments[0], arguments[1:], monkeypatch)
        elif program == "torchrun":
            number = next(i for i, text in enumerate(arguments) if text.endswith(".py"))
            parse_script(arguments[number], arguments[number + 1 :], monkeypatch)
        elif program == "make":
            targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
            if unknown := set(arguments) - set(targets[1].split()):
                raise ValueError(f"no target {unknown}")
        elif program == "pip" and arguments[0] == "install":
            listed, names = arguments[1] == "-r", arguments[1:]
            if not all((ROOT / name).is_file() if listed else name in OPTIONAL_PACKAGES
                       for name in names[listed:]):  # fmt: skip
                raise ValueError(f"packages that are not known: {names}")
        else:
            raise ValueError(f"{program} is not known")


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist_with_their_options(page, monkeypatch):
    for line in commands(page):
        try:
            check_command(line, monkeypatch)
        except (ValueError, IndexError) as error:
            pytest.fail(f"{page}: {line}\n{error}")


@pytest.mark.parametrize(
    "line",
    [
        "python tests.py checkpoints/a/best.pt",
        "python test.py checkpoints/a/best.pt --epochs 3",
        "python test.py",
        "python train.py --preset huge",
        "python train.py --hidden 3",
        "python train.py --causal --reference_frame somewhere",
        "python cross_validate.py SBU --folds 3",
        "python cross_validate.py SBU --ensemble a b",
        "torchrun --nproc_per_node=2 train.py --gpus 3",
        "my-sensor | python predict.py --lively --checkpoint a.pt",
        "python plot.py histogram a",
        "python benchmarks/studies.py combinations --presets huge",
        "python docs/diagrams.py --into a",
        "make coffee",
        "pip install -r requirement.txt",
        "pip install torchvision",
        "conda install torch",
    ],
)
def test_stale_commands_are_found(line, monkeypatch, capsys):
    with pytest.raises(ValueError, match=r"missing|take|no target|known|must be|choose|invalid"):
        check_command(line, monkeypatch)


def test_options_in_the_text_exist(monkeypatch, capsys):
    """As `--mmap`: those of any command."""
    known = {f"--{name}" for name in ("preset", "resume", "overwrite", "config", "help")}
    for name, value in train.flat(train.make_config()).items():
        known |= {f"--{name}"} | ({f"--no_{name}"} if isinstance(value, bool) else set())
    folders = ("", "benchmarks", "docs", "skeletons")
    scripts = [script for folder in folders for script in (ROOT / folder).glob("*.py")]
    for script in scripts:
        known |= set(
            re.findall(r'\badd(?:_argument)?\(\s*"(--\w+)"', script.read_text(encoding="utf-8"))
        )
    for page in PAGES:
        code = " ".join(span for span in spans(page) if not span.startswith("ruff "))
        used = set(re.findall(r"(?<![\w-])--\w[\w-]*", code))
        assert used <= known, f"{page}: {used - known}"


def test_blocks_say_what_they_hold():
    for page in PAGES:
        assert {language for language, *_ in fenced(page)} <= {
            "",
            "bash",
            "python",
            *OTHER_LANGUAGES,
        }, page


# --- Blocks that are run ------------------------------------------------------------------------------


def run_command(line):
    """Run a command in this process, with a tiny network."""
    _, script, *arguments = shlex.split(line, comments=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *arguments, *TINY.get(script, "").split()])
        patch.setattr(engine, "count_flops", lambda *_: 123_456)  # takes seconds
        try:
            script_main(script)()
        except SystemExit as error:
            assert not error.code, f"{line}\n{error.code}"


def write_recordings(folder, table):
    """One random array for each line of a clips.csv, as the page has it."""
    folder.mkdir()
    (folder / "clips.csv").write_text(table)
    for number, line in enumerate(table.splitlines()[1:]):
        walk = np.random.default_rng(number).normal(0, 0.1, (30, 20, 3)).cumsum(0)
        np.save(folder / f"{line.split(',')[0]}.npy", walk + np.arange(60).reshape(20, 3))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder in which the blocks of CHAINS were run."""
    folder = tmp_path_factory.mktemp("workplace")
    tables = {page: next(text for language, text, _ in fenced(page) if language == "csv")
              for page in ("README.md", "docs/data.md")}  # fmt: skip
    assert tables["docs/data.md"] == tables["README.md"]
    write_recordings(folder / "my-recordings", tables["README.md"])
    shutil.copytree(ROOT / "examples", folder / "examples")  # clips for the released networks
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for page, heading in CHAINS:
            blocks = [
                text for language, text, above in fenced(page) if (language, above) == ("", heading)
            ]
            assert blocks, f"{page} has no block below {heading}"
            for line in (line for text in blocks for line in lines_of(text)):
                run_command(line)
        # What blocks of Python read.
        run_command("python convert_data.py --data_path demo/raw --out_folder pauses --background")
        run_command("python train.py --preset live --data pauses/xview --name live")
        run_command("python train.py --preset demo --name my-run")
        run_command("python train.py --preset full --data demo/xview --name utd")
        shutil.copytree(folder / "demo/xview", folder / "NW-UCLA/xview")
    return folder


def test_chains_of_commands_work(workplace):
    for file in ("demo/best_test.json", "demo/best_report.png", "mine/best_confusion.png",
                 "wide/best.pt", "mine-2d/best.pt", "joints/best+bones-best_test.json"):  # fmt: skip
        assert (workplace / "checkpoints" / file).is_file()
    assert (workplace / "clip.gif").is_file()


def test_recordings_of_the_readme(workplace):
    """The block of the README is that of docs/data.md."""
    blocks = [
        [line.split("#")[0].strip() for line in lines_of(text)]
        for page, heading in (
            ("README.md", "Use your own data"),
            ("docs/data.md", "Your own recordings"),
        )
        for language, text, above in fenced(page)
        if (language, above) == ("", heading)
    ]
    assert blocks[0] == blocks[1]


PYTHON = [(page, number) for page in PAGES
          for number, (language, *_) in enumerate(fenced(page)) if language == "python"]  # fmt: skip


@pytest.mark.parametrize(("page", "number"), PYTHON)
def test_blocks_of_python_run(page, number, workplace, monkeypatch):
    code = list(fenced(page))[number][1]
    compile(code, page, "exec")
    code = code.replace("PATH/OF/THIS/REPOSITORY", ROOT.as_posix())
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(engine, "count_flops", lambda *_: 123_456)
    tiny = {"epochs": 1, "hidden_size": 4, "part_hidden_size": 4}
    for preset, sizes in {
        "small": tiny,
        "full": tiny | {"window_size": 12, "spatial_window": 12},
    }.items():
        for name, value in sizes.items():
            monkeypatch.setitem(train.PRESETS[preset], name, value)
    if "onnxruntime" in code:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
        run_command("python export.py checkpoints/my-run/best.pt")
    clip = np.random.default_rng(0).normal(size=(20, 25, 3))  # (T, V, C)
    exec(compile(code, page, "exec"), {"__name__": "block", "clip": clip, "sensor": clip})


# --- Links, pictures, lengths -------------------------------------------------------------------------


def anchors(page):
    """Those that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", PAGES[page]), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_exist(page):
    text = re.sub(r"<!--.*?-->", "", FENCE.sub("", PAGES[page]), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        found = (ROOT / page).parent / path if path else ROOT / page
        assert found.exists(), f"{page}: {target}"
        if anchor:
            other = found.resolve().relative_to(ROOT).as_posix()
            assert anchor in anchors(other), f"{page}: {target}"


def test_every_page_is_in_the_index():
    for page in PAGES:
        if page.startswith("docs/") and page != "docs/README.md":
            assert f"({page})" in PAGES["README.md"], page
            assert f"({Path(page).name})" in PAGES["docs/README.md"], page


def test_pages_that_are_read_stay_short():
    for page, limit in LONGEST.items():
        assert len(PAGES[page].splitlines()) <= limit, page
