"""Check this machine: versions, devices, kernels, the attention mask, disk, the Hub's token.

Every finding is printed as it is known, with what to do about it; nothing is downloaded and nothing is
written. The exit code is 2 if there is a problem.
"""

from itertools import chain
from pathlib import Path

from finetune.config.jobs import Doctor
from finetune.doctor.devices import check_devices
from finetune.doctor.leak import check_mask
from finetune.doctor.packages import check_packages
from finetune.doctor.storage import check_storage
from finetune.result import DoctorResult
from finetune.run.folder import Launch


def run(options: Doctor, launch: Launch) -> DoctorResult:
    """Return the findings; each is made while they are iterated."""
    return DoctorResult(
        chain(check_packages(), check_devices(), check_mask(), check_storage(Path(options.runs_dir)))
    )
