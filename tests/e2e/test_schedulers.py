"""The examples for Slurm and Kubernetes, with scripts for the clusters' commands."""

import itertools
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from finetune.processes.signals import EXIT_CODE, NAMES
from tests.e2e.test_guides import check_options
from tests.support.guides import ROOT

SBATCH = ROOT / "examples" / "slurm" / "train.sbatch"
JOB = ROOT / "examples" / "kubernetes" / "train.yaml"

SRUN = """#!/bin/bash
# Starts its command once per task, as srun does, passes USR1 on, and ends with the highest exit code.
printf '%s\\n' "$@" > srun_arguments
while [[ $1 == --* ]]; do shift; done
for ((task = 0; task < SLURM_NTASKS; task++)); do
    SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & tasks[task]=$!
done
trap 'kill -USR1 "${tasks[@]}"' USR1
touch started
highest=0
for task in "${tasks[@]}"; do
    while wait "$task"; code=$?; [ "$code" -gt 128 ] && kill -0 "$task" 2> /dev/null; do :; done
    [ "$code" -gt "$highest" ] && highest=$code
done
exit "$highest"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo first.example; else echo "$@" > scontrol_arguments; fi
"""
PYTHON = """#!/bin/bash
# One process of the job, which ends as the test wants it to.
echo "$RANK of $WORLD_SIZE: $*" >> processes
trap "exit $SAVED" USR1
while [ -z "$ENDS" ]; do sleep 0.02; done
exit "$ENDS"
"""


def sbatch(folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start the example as Slurm does. Its commands are the scripts above."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("python", PYTHON)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    of_slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "first", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    search = {"PATH": f"{folder}:{os.environ['PATH']}"}
    words = ["bash", str(SBATCH), "recipes.lora", "--data.folder", "my images"]
    return subprocess.Popen(words, cwd=folder, env=os.environ | of_slurm | search | environment)


def test_a_job_that_saved_before_its_time_is_over_is_queued_again(tmp_path: Path) -> None:
    job = sbatch(tmp_path, SAVED=str(EXIT_CODE), ENDS="")
    deadline = time.monotonic() + 30
    while not ((tmp_path / "processes").exists() and (tmp_path / "processes").read_text().count("\n") == 2):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.1)  # for the traps of the scripts
    job.send_signal(signal.SIGUSR1)
    assert job.wait(30) == EXIT_CODE
    assert (tmp_path / "scontrol_arguments").read_text() == "requeue 7\n"
    started = sorted((tmp_path / "processes").read_text().splitlines())
    assert started == [f"{rank} of 2: -m recipes.lora --data.folder my images" for rank in (0, 1)]
    assert "--kill-on-bad-exit=0" in (tmp_path / "srun_arguments").read_text()


@pytest.mark.parametrize("code", [0, 1])
def test_a_job_that_is_finished_or_failed_is_not_queued_again(code: int, tmp_path: Path) -> None:
    assert sbatch(tmp_path, SAVED="75", ENDS=str(code)).wait(30) == code
    assert not (tmp_path / "scontrol_arguments").exists()


def test_the_example_for_slurm_asks_for_a_signal_that_is_heeded_and_options_that_exist() -> None:
    text = SBATCH.read_text()
    asked = re.findall(r"^#SBATCH --signal=B:(\w+)@", text, flags=re.MULTILINE)
    assert [f"SIG{name}" in NAMES for name in asked] == [True]
    (usage,) = re.findall(r"^#   sbatch examples(.*?)\n#   sbatch", text, flags=re.DOTALL | re.MULTILINE)
    check_options(shlex.split(usage.replace("\\\n#", " ")))


def test_the_example_for_kubernetes_gives_time_to_save_and_options_that_exist() -> None:
    service, job = yaml.safe_load_all(JOB.read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    shell, _, script = container["command"]
    words = shlex.split(
        script.replace('"$(finetune accelerate-config multi_node)"', "accelerate_configs/multi_node.yaml")
    )
    check_options(words)
    given = dict(itertools.pairwise(words))
    num = job["spec"]["completions"]
    assert shell == "bash" and int(given["--num_machines"]) == num == job["spec"]["parallelism"]
    assert int(given["--num_processes"]) == num * container["resources"]["limits"]["nvidia.com/gpu"]
    name = job["metadata"]["name"]
    assert given["--main_process_ip"] == f"{name}-0.{service['metadata']['name']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    (to_save,) = [int(each["value"]) for each in container["env"] if each["name"] == "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]
    assert to_save < pod["terminationGracePeriodSeconds"]
    mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    for option in ("--output.folder", "--cache.folder"):
        assert given[option].startswith(mounted["shared"])
