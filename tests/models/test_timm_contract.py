"""timm's own tests/test_models.py, from the sdist of the installed timm, on the small models of burn_timm; with
`-m slow` on the others.

The tests run in a process of their own, because that file sets global switches of TorchScript. `-rP` shows their
output; the terminal summary tells how many passed.
"""

import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

import pytest
import timm

import burn_timm
from burn_timm.models import MODULES

MODELS = timm.list_models(module=MODULES)
# What timm runs on every model; below this the run did not test what it should.
REQUIRED = {
    "test_model_forward", "test_model_backward", "test_model_default_cfgs", "test_model_forward_torchscript",
    "test_model_forward_features", "test_model_forward_fx", "test_model_backward_fx",
    "test_model_forward_fx_torchscript",
}
INTERMEDIATES = {"test_model_forward_intermediates_features", "test_model_forward_intermediates"}
QUICK = ("test_reactnet", "test_reactnet_mlp", "resnet20_cifar")


@pytest.fixture(scope="module")
def timm_tests(request, tmp_path_factory):
    """timm's tests/test_models.py, fetched once and kept in pytest's cache."""
    cache = getattr(request.config, "cache", None)
    folder = cache.mkdir("timm-tests") if cache else tmp_path_factory.mktemp("timm-tests")
    path = folder / timm.__version__ / "test_models.py"
    if not path.exists():
        text = _fetch(tmp_path_factory.mktemp("sdist"))
        path.parent.mkdir(exist_ok=True)
        beside = path.with_suffix(".part")
        beside.write_bytes(text)
        beside.replace(path)
    return path


def _fetch(folder: Path) -> bytes:
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--retries", "1", "--no-deps"]
    command += ["--no-binary", "timm", f"timm=={timm.__version__}", "-d", str(folder)]
    pip = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if pip.returncode:
        last = (pip.stderr.strip() or "no output").splitlines()[-1]
        if "from versions: none" in pip.stderr:
            pytest.skip(f"no package index is reachable, so timm's sdist with its tests cannot be had: {last}")
        pytest.fail(f"pip could not fetch timm's sdist: {last}")
    (archive,) = folder.glob("timm-*.tar.gz")
    with tarfile.open(archive) as file:
        return file.extractfile(f"timm-{timm.__version__}/tests/test_models.py").read()


@pytest.fixture(scope="module")
def results(request, timm_tests, tmp_path_factory):
    """{model: {(test, parameters): "passed", "skipped" or the failure's text}}, of the models that are asked for."""
    models = [item.callspec.params["model"] for item in request.session.items if item.path == Path(__file__)]
    report = tmp_path_factory.mktemp("report") / "report.xml"
    here, package = Path(__file__).parent, Path(burn_timm.__file__).parents[1]
    # On GitHub timm leaves some of its tests out.
    environment = {key: value for key, value in os.environ.items() if key != "GITHUB_ACTIONS"}
    environment["OMP_NUM_THREADS"] = "1"
    environment["PYTHONPATH"] = os.pathsep.join([str(here), str(package), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(timm_tests.parent), "-q",
         "-p", "no:cacheprovider", "-p", "timm_plugin", "--strict-markers", "--tb=short", str(timm_tests),
         f"--junitxml={report}", "--models", *models],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    print(done.stdout)
    assert done.returncode in (0, 1), f"timm's tests did not run to their end: exit code {done.returncode}"

    found = defaultdict(dict)
    for case in ElementTree.parse(report).iter("testcase"):
        test, _, parameters = case.get("name").rstrip("]").partition("[")
        named = [model for model in MODELS if model in parameters.replace(".", "-").split("-")]
        assert len(named) == 1, f"{case.get('name')} names none of our models"
        bad = [child for child in case if child.tag in ("failure", "error", "skipped")]
        outcome = "passed"
        if bad:
            outcome = "skipped" if bad[0].tag == "skipped" else f"{bad[0].get('message')}\n{bad[0].text}"
        found[named[0]][test, parameters] = outcome
    return found


@pytest.mark.parametrize("model", [
    pytest.param(model, marks=[] if model in QUICK else pytest.mark.slow) for model in MODELS
])
def test_timms_own_tests_pass(model, results, record_property):
    failed = {name: outcome for name, outcome in results[model].items() if outcome != "passed"}
    passed = len(results[model]) - len(failed)
    count = f"{passed} of {len(results[model])} pass"
    record_property("summary", f"timm {timm.__version__} tests/test_models.py on {model}: {count}")
    assert not failed, "\n".join(f"{name}: {outcome}" for name, outcome in failed.items())
    required = REQUIRED | (INTERMEDIATES if hasattr(timm.create_model(model), "forward_intermediates") else set())
    missing = required - {test for test, _ in results[model]}
    assert not missing, f"of timm's tests these did not run: {sorted(missing)}"
