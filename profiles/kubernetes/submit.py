"""Hand one job of the workflow to Kubernetes and print its name: `python submit.py JOBSCRIPT`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from snakemake.utils import read_job_properties

TEMPLATE = Path(__file__).with_name("job.yaml")
GPU = "nvidia.com/gpu"


def manifest(template: dict[str, Any], properties: dict[str, Any], script: str) -> dict[str, Any]:
    """Return the template with what the job of these properties runs and asks for.

    Memory and GPUs are limits, too: Kubernetes shares out neither, and takes GPUs in no other way.
    """
    wanted = properties["resources"]
    limits = {"memory": f"{wanted['mem_mb']}M"} | ({GPU: str(wanted["gpu"])} if wanted["gpu"] else {})
    requests = {"cpu": str(properties["threads"]), "ephemeral-storage": f"{wanted['disk_mb']}M"}
    template["metadata"]["generateName"] = f"facemae-{properties['rule']}-"
    template["spec"]["template"]["spec"]["activeDeadlineSeconds"] = 60 * wanted["runtime"]
    container = template["spec"]["template"]["spec"]["containers"][0]
    container["args"] = [script]
    container["resources"] = {"requests": requests | limits, "limits": limits}
    return template


def main() -> None:
    """Submit the job of the script that the command line names."""
    script = sys.argv[1]
    job = manifest(yaml.safe_load(TEMPLATE.read_text()), read_job_properties(script), script)
    created = subprocess.run(
        ["kubectl", "create", "--output", "name", "--filename", "-"],
        input=yaml.safe_dump(job),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if created.returncode:
        sys.exit(created.returncode)  # kubectl has said why
    print(created.stdout.strip().removeprefix("job.batch/"))


if __name__ == "__main__":
    main()
