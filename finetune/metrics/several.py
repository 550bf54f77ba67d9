"""Several metrics over the same rows: the main one, and others whose fields follow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.errors import UserError
from finetune.metrics.metric import Metric, ObjectMetric


@dataclass(frozen=True)
class Several:
    """Scores rows as the main metric does, and reports the fields of the others too.

    A field that a metric before it already has is prefixed with the name of its metric and `_`.

    Args:
        main: gives each row its score; the first of its fields is the run's.
        others: name -> metric.

    Raises:
        UserError: two fields have the same name even so, or objects would be read in two ways.
    """

    main: Metric
    others: Mapping[str, Metric]

    def __post_init__(self) -> None:
        names = [name for renamed, _ in self._renamed() for name in renamed.values()]
        for name in names:
            if names.count(name) > 1:
                raise UserError(
                    f"metrics: `{name}` is a field of several metrics. Give one of them another name."
                )
        readers = [part.reader for part in metrics_of(self) if isinstance(part, ObjectMetric)]
        for option in ("divisor", "official", "mask_vae"):
            values = {getattr(reader, option) for reader in readers} - {None}
            if len(values) > 1:
                name = "reading" if option == "official" else option
                raise UserError(
                    f"metrics: objects are read from text once for all metrics, but `{name}` differs. Give "
                    "them the same one, or score them apart."
                )

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        """Every field of `compute`, the main one first."""
        return {
            renamed[field]: is_better
            for renamed, metric in self._renamed()
            for field, is_better in metric.higher_is_better.items()
        }

    def score(self, row: Mapping[str, object]) -> float | None:
        """Score one row with the main metric."""
        for metric in self.others.values():
            metric.score(row)
        return self.main.score(row)

    def compute(self, rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
        """Return the main metric's fields, then those of the others."""
        return {
            renamed.get(field, field): value
            for renamed, metric in self._renamed()
            for field, value in metric.compute(rows).items()
        }

    def _renamed(self) -> list[tuple[dict[str, str], Metric]]:
        """Return each metric after the name in the whole of each of its fields."""
        taken = set(self.main.higher_is_better)
        renamed = [({field: field for field in self.main.higher_is_better}, self.main)]
        for name, metric in self.others.items():
            fields = {
                field: f"{name}_{field}" if field in taken else field for field in metric.higher_is_better
            }
            taken |= set(fields.values())
            renamed.append((fields, metric))
        return renamed


def metrics_of(metric: Metric) -> tuple[Metric, ...]:
    """Return the metrics that a run is scored with, the main one first; mostly the one itself."""
    return (metric.main, *metric.others.values()) if isinstance(metric, Several) else (metric,)


def find_object_metric(metric: Metric) -> ObjectMetric | None:
    """Return the metric by which a run's objects are read from text, once for all; None: none compares any.

    One that compares masks reads what boxes need too.
    """
    parts = [part for part in metrics_of(metric) if isinstance(part, ObjectMetric)]
    return max(
        parts, key=lambda part: (part.compared.masks, part.reader.mask_vae is not None), default=None
    )
