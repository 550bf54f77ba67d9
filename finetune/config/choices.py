"""The groups whose options differ from choice to choice: dataset, task and metric."""

from finetune.config import datasets, metrics, tasks

GROUP_SCHEMAS: dict[str, dict[str, type]] = {
    "dataset": {
        "canvas": datasets.CanvasDataset,
        "coco": datasets.CocoDataset,
        "conversations": datasets.ConversationsDataset,
        "digits": datasets.DigitsDataset,
        "hub": datasets.HubDataset,
        "image_folder": datasets.ImageFolderDataset,
        "jsonl": datasets.JsonlDataset,
        "mixture": datasets.MixtureDataset,
        "release": datasets.ReleaseDataset,
        "table": datasets.TableDataset,
        "voc": datasets.VocDataset,
        "vqav2": datasets.Vqav2Dataset,
        "webdataset": datasets.WebdatasetDataset,
        "yolo": datasets.YoloDataset,
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
