"""The groups whose options differ from choice to choice: dataset, task and metric."""

from finetune.config import metrics, tasks
from finetune.data import options

GROUP_SCHEMAS: dict[str, dict[str, type]] = {
    "dataset": {
        "canvas": options.Canvas,
        "coco": options.Coco,
        "conversations": options.Conversations,
        "digits": options.Digits,
        "hub": options.Hub,
        "image_folder": options.ImageFolder,
        "jsonl": options.Jsonl,
        "mixture": options.Mixture,
        "release": options.Release,
        "table": options.Table,
        "voc": options.Voc,
        "vqav2": options.Vqav2,
        "webdataset": options.Webdataset,
        "yolo": options.Yolo,
    },
    "task": {
        "choice": tasks.ChoiceTask,
        "detection": tasks.ObjectsTask,
        "text": tasks.TextTask,
    },
    "metric": {
        "any_match": metrics.AnyMatchMetric,
        "anls": metrics.AnlsMetric,
        "caption": metrics.CaptionMetric,
        "choice": metrics.ChoiceMetric,
        "counting": metrics.CountingMetric,
        "detection": metrics.DetectionMetric,
        "edit": metrics.EditMetric,
        "exact_match": metrics.ExactMatchMetric,
        "grouped_accuracy": metrics.GroupedAccuracyMetric,
        "pair_accuracy": metrics.PairAccuracyMetric,
        "referring": metrics.ReferringMetric,
        "relaxed_accuracy": metrics.RelaxedAccuracyMetric,
        "segmentation": metrics.SegmentationMetric,
        "vqa_accuracy": metrics.VqaAccuracyMetric,
        "yes_no": metrics.YesNoMetric,
    },
}
"""Choice -> schema, merged under `conf/`'s file."""
