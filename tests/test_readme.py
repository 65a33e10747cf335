"""The README's examples run as written and print what it says; its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n```text\n(.*?)```", README, re.DOTALL)


def test_every_example_shows_its_output():
    assert len(EXAMPLES) == README.count("```python") == 5


@pytest.mark.parametrize(
    ("code", "printed"), EXAMPLES, ids=["numpy", "torch", "hover", "paste", "tiles"]
)
def test_example_prints_what_the_readme_says(code, printed, tmp_path):
    if "import torch" in code:
        pytest.importorskip("torch", reason="torch is not installed")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed


def test_make_targets_of_the_documents_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    documents = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", documents, re.MULTILINE))
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert {"demo", "test"} <= named <= targets


def test_commands_of_the_readme_exist(tmp_path):
    shell = "".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    commands = set(re.findall(r"^cellpost ([a-z]+)", shell, re.MULTILINE))
    assert commands
    for command in sorted(commands):
        done = subprocess.run(
            [sys.executable, "-m", "cellpost", command, "--help"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"cellpost {command}: {done.stderr}"
