"""The base of a run: read from one commit, and the same again when the run is continued."""

from dataclasses import replace

from finetune.config.jobs import Train
from finetune.model.origin import find_origin, pin_revision, read_origin
from finetune.model.provenance import Provenance, check_base
from finetune.run.folder import RunFolder


def settle_base(options: Train, folder: RunFolder) -> Train:
    """Return options whose base on the Hub is named by its commit: of a resumed run, by the recorded one.

    Args:
        options: options of the job.
        folder: folder of the run.

    Raises:
        UserError: the base cannot be reached, or the folder that it is in has other weights than when the
            run began.
    """
    recorded = read_origin(folder.environment) if options.resume else None
    model = pin_revision(options.model, recorded)
    if recorded is not None:
        before, here = (Provenance(origin, None, None) for origin in (recorded, find_origin(model)))
        check_base(f"The run in {folder.root}", before, here, options.adapter_base)
    return replace(options, model=model)
