"""Published figures: complete, without paths of a machine, and equal to what the README prints."""

import hashlib
import json
import re
import statistics
from pathlib import Path

import pytest
import timm

ROOT = Path(__file__).parents[1]
TEACHER = ROOT / "results" / "target" / "teacher"
RESULTS = sorted(path for path in (ROOT / "results").rglob("*.json") if path.parent != TEACHER)
KEYS = {"task", "value", "protocol", "dataset", "model", "checkpoint", "commit", "command", "hardware", "versions"}
BENCH = {"task", "settings", "rows", "commit", "command", "hardware", "versions", "date"}
TRAINING = {"model", "stages", "method", "dataset", "command", "commit", "hardware", "versions", "seconds"}


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_is_complete_and_names_no_machine(path):
    text = path.read_text()
    content = json.loads(text)
    assert any(keys <= content.keys() for keys in (KEYS, BENCH, TRAINING))
    assert not re.search(r'(?<![\w.$])/(?:home|root|tmp|work|mnt|data)/', text)


def test_the_readmes_table_is_what_was_measured():
    table = re.search(r"results:begin -->(.*?)<!-- results:end", (ROOT / "README.md").read_text(), re.S).group(1)
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("|") and "`" in line]
    assert len(rows) >= 4
    for row in rows:
        name = re.findall(r"`(\w+)`", row[0])[-1]
        for column, task in ((-2, "knn"), (-1, "linear")):
            files = sorted((ROOT / "results").glob(f"cifar10_{name}*_{task}.json"))
            values = [100 * json.loads(file.read_text())["value"] for file in files]
            expected = f"{statistics.mean(values):.1f}" if values else "–"  # not measured
            if len(values) > 1:
                expected += f" ± {statistics.stdev(values):.1f}"
            assert row[column].strip() == expected, f"{name} {task}"


def test_the_comparison_of_methods_is_what_was_measured():
    """Every cell of kNN and linear again, straight from the files: mean, deviation and number of seeds."""
    table = re.search(r"methods:begin -->(.*?)<!-- methods:end", (ROOT / "EXPERIMENTS.md").read_text(), re.S).group(1)
    printed = {row.split("|")[1].split(" (")[0].strip(): [cell.strip() for cell in row.split("|")[2:5]]
               for row in table.splitlines() if "%" not in row and row.startswith("|") and "---" not in row}
    names = {
        "burn": "BURN", "s2bnn": "S2-BNN", "s2bnn_contrastive": "S2-BNN, contrastive too", "byol": "BYOL",
        "swav": "SwAV", "mocov2": "MoCo v2", "simclr": "SimCLR", "infomin": "InfoMin", "supervised": "supervised",
        "supervised_kl": "supervised, soft labels", "untrained": "untrained",
    }
    for method, name in names.items():
        expected = []
        for task in ("knn", "linear"):
            files = sorted((ROOT / "results").glob(f"methods_{method}_s[0-9]_{task}.json"))
            values = [100 * json.loads(file.read_text())["value"] for file in files]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            expected.append(f"{statistics.mean(values):.2f}{spread}")
        assert printed[name] == [*expected, str(len(values))], name


@pytest.mark.parametrize("table", ["parts", "heads", "similarity", "field"])
def test_the_tables_on_the_target_are_what_was_measured(table):
    """Mean and deviation, number of seeds, steps, minutes, and that each row's options are those of its runs."""
    text = (ROOT / "EXPERIMENTS.md").read_text()
    table = re.search(rf"{table}:begin -->(.*?)<!-- {table}:end", text, re.S).group(1)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[3:]]
    assert rows
    for _, options, *cells, steps, minutes, name in rows:
        folder = ROOT / "results" / "target"
        expected = []
        for task in ("knn", "linear"):
            values = [100 * json.loads(file.read_text())["value"] for file in folder.glob(f"{name}_s[0-9]_{task}.json")]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            expected.append(f"{statistics.mean(values):.2f}{spread}")
        trained = [json.loads(file.read_text()) for file in folder.glob(f"{name}_s[0-9]_training.json")]
        assert cells == [*expected, str(len(trained))] and len(trained) == len(values)
        assert minutes == ", ".join(
            f"{statistics.mean(run[key] for run in trained) / 60:.1f}" for key in ("cpu_seconds", "train_seconds")
        )
        wanted = set(re.findall(r"(?<= )--\S+(?: (?!--)\S+)*", f" {options.strip('`')}"))
        assert all(wanted <= set(re.findall(r"(?<= )--\S+(?: (?!--)\S+)*", run["command"])) for run in trained)
        assert wanted or options == "none"
        assert steps == "1,600" and all(run["max_steps"] * len(run["stages"]) == 1600 for run in trained)


def test_the_table_of_transfer_and_few_labels_is_what_was_measured():
    """A dash is for what was not measured; and what is called 1 % had 1 % of the labels."""
    table = re.search(r"few:begin -->(.*?)<!-- few:end", (ROOT / "EXPERIMENTS.md").read_text(), re.S).group(1)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[3:]]
    assert rows
    for _, *cells, name in rows:
        for cell, task in zip(cells, ("cifar10_knn", "cifar10_linear", "finetune_1", "finetune_10"), strict=True):
            files = (ROOT / "results" / "target").glob(f"{name}_s[0-9]_{task}.json")
            results = [json.loads(file.read_text()) for file in files]
            values = [100 * result["value"] for result in results]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            assert cell == (f"{statistics.mean(values):.2f}{spread}" if values else "–"), (name, task)
            if task.startswith("finetune"):
                assert all(f"--fraction {int(task[9:]) / 100:g} " in result["command"] for result in results)
                assert len({tuple(result["protocol"]["transform"]["input_size"]) for result in results}) <= 1
            else:
                assert all("/cifar10 " in result["command"] for result in results)


def test_the_trials_of_the_whole_network_are_what_was_measured():
    text = (ROOT / "EXPERIMENTS.md").read_text()
    table = re.search(r"whole_trials:begin -->(.*?)<!-- whole_trials:end", text, re.S).group(1)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[3:]]
    assert len(rows) >= 4
    for _, options, value, name in rows:
        result = json.loads((ROOT / "results" / "trials" / f"distill_full_64px_{name}_knn.json").read_text())
        assert value == f"{100 * result['value']:.2f}" and result["protocol"]["transform"]["input_size"] == [3, 64, 64]
        training = result["training"]
        settings = training["settings"]
        assert (training["stages"], training["max_steps"], training["img_size"]) == (["w1a1"], 200, 48)
        for option, given in re.findall(r"--(\S+) ([^`\s]+)", options):
            found = settings[option.replace("-", "_")]
            assert found == (given if isinstance(found, str) else float(given)), (name, option)


def test_the_table_of_the_whole_network_is_what_was_measured():
    table = re.search(r"whole:begin -->(.*?)<!-- whole:end", (ROOT / "EXPERIMENTS.md").read_text(), re.S).group(1)
    printed = [[cell.strip() for cell in line.split("|")[2:-1]] for line in table.splitlines()[3:]]
    names = (
        "reactnet_a_burn_tiny", "trials/reactnet_a_burn_relations_tiny", "target/teacher_64",
        "trials/reactnet_a_burn_information_tiny",
    )
    sentence = r"has kNN (\S+) and linear (\S+) on 80.*?has (\S+) and (\S+)\. On"
    first = re.search(sentence, (ROOT / "README.md").read_text(), re.S).groups()
    assert [float(x) for x in first] == pytest.approx([float(x) for row in printed[:3:2] for x in row], abs=0.051)
    assert printed == [
        [f"{100 * json.loads((ROOT / 'results' / f'{name}_{task}.json').read_text())['value']:.2f}"
         for task in ("knn", "linear")] for name in names
    ]


def test_the_teacher_of_these_tables_is_the_one_that_is_kept():
    """The file that was measured, and timm loads it."""
    folder = TEACHER.parent
    kept = hashlib.sha256((TEACHER / "model.safetensors").read_bytes()).hexdigest()
    measured = [json.loads(path.read_text()) for path in folder.glob("teacher_[0-9]*_*.json")]
    assert len(measured) == 4 and {result["checkpoint"]["sha256"] for result in measured} == {kept}
    assert timm.create_model(f"local-dir:{TEACHER}", pretrained=True).num_features == 256


@pytest.mark.parametrize("page", ["README.md", "results/README.md"])
def test_the_tables_of_speed_are_what_was_measured(page):
    table = re.search(r"bench:begin -->(.*?)<!-- bench:end", (ROOT / page).read_text(), re.S).group(1)
    printed = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if "`" in line]
    measured = [json.loads((ROOT / "results" / f"bench_224_{threads}_threads.json").read_text()) for threads in (1, 2)]
    assert all(result["settings"]["threads"] == threads for result, threads in zip(measured, (1, 2), strict=True))
    rows = {}
    for one, two in zip(*(result["rows"] for result in measured), strict=True):
        assert one["engine"] == two["engine"] and not one["error"] and not two["error"]
        assert min(one["cpu_per_wall"], two["cpu_per_wall"]) > 0.9  # the machine had nothing else to do
        rows[f"`{one['model']}`", one["title"]] = [
            f"{one['ms']:.2f}", f"{one['ratio']:.2f}", f"{two['ms']:.2f}", f"{two['ratio']:.2f}",
            f"{one['file_bytes'] / 1e6:.1f}", f"{one['memory_bytes'] / 1e6:.1f}",
        ]
    for network, engine, *numbers in printed:
        assert numbers == rows[network, engine.strip("*")]
    assert len(printed) == len(rows) or page == "README.md"
    faster = {network for (network, _), numbers in rows.items() if float(numbers[1]) < 1}
    assert faster <= {line[0] for line in printed if float(line[3]) < 1}  # networks that beat ours are not left out


def test_the_readmes_sentence_on_batch_32_is_what_was_measured():
    rows = {row["row"]: row for row in json.loads(
        (ROOT / "results" / "train_step_64_batch_32.json").read_text())["extra"]["rows"]}
    ours = rows["compiled-bf16-cl"]
    sentence = r"reaches (\S+) here at batch 32\n.*ours (\S+), (\S+) times that"
    printed = re.search(sentence, (ROOT / "README.md").read_text())
    numbers = rows["reference"]["images_per_second"], ours["images_per_second"], ours["ratio"]
    assert printed.groups() == (f"{numbers[0]:.1f}", f"{numbers[1]:.1f}", f"{numbers[2]:.2f}")


def test_the_engines_agree_on_real_images():
    values = [json.loads((ROOT / "results" / f"engine_{name}_knn.json").read_text())["value"]
              for name in ("torch", "openvino", "numba")]
    assert max(values) - min(values) <= 0.003
    printed = re.search(r"is (\d+\.\d+) by torch, (\d+\.\d+) by OpenVINO and (\d+\.\d+) by numba",
                        (ROOT / "README.md").read_text())
    assert printed.groups() == tuple(f"{100 * value:.2f}" for value in values)


@pytest.mark.parametrize("page", ["README.md", "results/README.md"])
def test_the_tables_of_training_steps_are_what_was_measured(page):
    table = re.search(r"step:begin -->(.*?)<!-- step:end", (ROOT / page).read_text(), re.S).group(1)
    printed = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[3:]]
    expected = []
    for name, what in (
        ("train_step_64", "ReActNet-A alone"), ("train_step_64_batch_32", "ReActNet-A alone, batch 32"),
        ("train_step_224", "ReActNet-A alone, 224 px, batch 8"),
        ("train_step_64_whole", "BURN with a ResNet-50 teacher"),
    ):
        rows = json.loads((ROOT / "results" / f"{name}.json").read_text())["extra"]["rows"]
        for row in rows:
            peak, first = row["memory"]["peak_bytes"], rows[0]["memory"]["peak_bytes"]
            expected.append([
                what, row["title"], f"{row['images_per_second']:.1f}", f"{row['ratio']:.2f}", f"{peak / 1e6:.0f}",
                f"{peak / first:.2f}", f"{row['memory']['saved_bytes'] / 1e6:.0f}",
            ])
    assert all(row in expected for row in printed) and len(printed) >= 5
    assert printed == expected or page == "README.md"
