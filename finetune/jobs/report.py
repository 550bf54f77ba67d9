"""Write the page and the card of a finished run again (run=FOLDER), from what its folder holds.

Neither the model nor the data are read: scores, prediction rows, history and small images are in the
folder. A run of a version that did not keep all of them gets a page without what is missing.
"""

import logging

from finetune.assembly.report import write_report
from finetune.config.jobs import Report
from finetune.errors import UserError
from finetune.publish.card import update_card
from finetune.result import ReportResult
from finetune.run.files import explain_disk_errors
from finetune.run.folder import Launch, RunFolder

log = logging.getLogger(__name__)


def run(options: Report, launch: Launch) -> ReportResult:
    """Write `report.html`, `report.md` and the result's card into the run's folder.

    Raises:
        UserError: the folder has no finished run, or another process writes in it.
    """
    with RunFolder(launch.folder) as folder:
        if not folder.metrics.is_file():
            raise UserError(
                f"{folder.root} has no {folder.metrics.name}: a report is of a finished run. Continue it "
                f"with resume=true, or score it: python -m finetune evaluate run={folder.root}"
            )
        folder.lock()
        with explain_disk_errors(folder.root):
            write_report(options, folder)
            update_card(folder)
    log.info("report: %s", folder.report)
    return ReportResult(folder.report, folder.report_text)
