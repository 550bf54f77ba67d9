"""The groups whose options differ from choice to choice: dataset, task and metric."""

from omegaconf import DictConfig, OmegaConf

from finetune.data import annotations, options, published
from finetune.metrics.anls import Anls
from finetune.metrics.caption import Caption
from finetune.metrics.choice import Choice
from finetune.metrics.counting import Counting
from finetune.metrics.detection import DetectionOptions
from finetune.metrics.edit import EditRate
from finetune.metrics.grouped import GroupedAccuracy
from finetune.metrics.json_fields import JsonFields
from finetune.metrics.pair import PairAccuracy
from finetune.metrics.referring import Referring
from finetune.metrics.relaxed import RelaxedAccuracy
from finetune.metrics.segmentation import Segmentation
from finetune.metrics.text import AnyMatch, ExactMatch
from finetune.metrics.vqa import VqaAccuracy
from finetune.metrics.yes_no import YesNo
from finetune.tasks.choice import ChoiceTask
from finetune.tasks.objects import ObjectsOptions
from finetune.tasks.text import TextTask

GROUP_SCHEMAS: dict[str, dict[str, type]] = {
    "dataset": {
        "canvas": options.Canvas,
        "coco": annotations.Coco,
        "conversations": options.Conversations,
        "cvat": annotations.Cvat,
        "digits": options.Digits,
        "hub": published.Hub,
        "image_folder": annotations.ImageFolder,
        "jsonl": options.Jsonl,
        "label_studio": annotations.LabelStudio,
        "labelme": annotations.Labelme,
        "mixture": options.Mixture,
        "release": published.Release,
        "table": options.Table,
        "voc": annotations.Voc,
        "vqav2": published.Vqav2,
        "webdataset": options.Webdataset,
        "yolo": annotations.Yolo,
    },
    "task": {
        "choice": ChoiceTask,
        "detection": ObjectsOptions,
        "text": TextTask,
    },
    "metric": {
        "any_match": AnyMatch,
        "anls": Anls,
        "caption": Caption,
        "choice": Choice,
        "counting": Counting,
        "detection": DetectionOptions,
        "edit": EditRate,
        "exact_match": ExactMatch,
        "grouped_accuracy": GroupedAccuracy,
        "json_fields": JsonFields,
        "pair_accuracy": PairAccuracy,
        "referring": Referring,
        "relaxed_accuracy": RelaxedAccuracy,
        "segmentation": Segmentation,
        "vqa_accuracy": VqaAccuracy,
        "yes_no": YesNo,
    },
}
"""Group -> choice -> the class of its options, which is the part itself or builds it."""


def build_node(schema: type) -> DictConfig:
    """Return a choice's options as a node that Hydra composes."""
    node: DictConfig = OmegaConf.structured(schema)
    _open(node)
    return node


def _open(node: DictConfig) -> None:
    """Allow changes to a frozen class, and new keys (without `+`) in a dict such as `dataset.columns`."""
    OmegaConf.set_readonly(node, None)
    if OmegaConf.get_type(node) is dict:
        OmegaConf.set_struct(node, False)
    for key in node:
        value = None if OmegaConf.is_missing(node, key) else node[key]
        if isinstance(value, DictConfig):
            _open(value)
