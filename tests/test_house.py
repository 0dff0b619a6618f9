"""The house stays in order: short files and functions, and words that a newcomer understands."""

import re
import subprocess
from pathlib import Path

import pytest
from size import MAX_FILE, MAX_FUNCTION, file_lengths, function_lengths

ROOT = Path(__file__).parents[1]
# Files that are still too long, each with the length it may not exceed. This list only gets shorter.
LONGER: dict[str, int] = {}
# Words that nobody outside knows, or that make a riddle of a sentence, and how often each still stands.
# The numbers only get smaller.
WORDS = {
    r"\brivals?\b|_rivals?\b|\bRivals?\b|RIVALS?": 0,
    r"\btwins?\b|\btwin_": 0,
    r"\b[Aa]ids?\b|AIDS": 0,
    r"\b(doubts?|DOUBTS?)\b": 1,  # the column of aligned faces that were stored before
    r"\bgates?\b|GATES?": 0,
    r"\banew\b": 0,
    r"\bluck\b": 0,
    r"\bmanners of\b": 0,
    r"cut off or shout": 0,
    r"\blook ill\b": 0,
    r"\bspeak of\b": 0,
    r"\bever more\b": 0,
    r"\bcheap\b|cheap_runs": 0,
    r"class _?(Asked|Making|Underway|Done|Puzzle|Kind)\b": 0,
}
WHERE = ("facemae", "app.py", "README.md", "config.yaml", "config", "Snakefile", "workflow/rules")


def test_files_are_short():
    long = {name: lines for name, lines in file_lengths().items() if lines > LONGER.get(name, MAX_FILE)}
    assert long == {}


def test_functions_are_short():
    long = {name: lines for name, lines in function_lengths().items() if lines > MAX_FUNCTION}
    assert long == {}


@pytest.mark.parametrize("word", WORDS)
def test_words_that_may_not_come_back(word):
    files = subprocess.run(["git", "ls-files", *WHERE], cwd=ROOT, capture_output=True, text=True, check=True)
    named = [ROOT / name for name in files.stdout.split() if not name.endswith((".safetensors", ".parquet"))]
    texts = [path.read_text("utf-8") for path in named if path.exists()]
    assert sum(len(re.findall(word, text)) for text in texts) <= WORDS[word]
