"""big_vision's beam search, for prompts that come and go."""

from collections.abc import Sequence

import torch
from torch import Tensor

from finetune.generation.automaton import Automaton
from finetune.generation.limits import Limits
from finetune.generation.search import Choice, Spoken


class Beams:
    """Finds the ended hypothesis of the highest summed log-probability, without length normalization.

    At each step every live beam may end; the best ended one is kept, and the beams continue without EOS. So
    an answer that ran out of tokens never beats one that ended, as it may in transformers' beam search.

    Args:
        beams: live hypotheses of each prompt.
        steps: most tokens of an answer, including EOS.
        end: id of EOS.
        device: of the logits.
        limits: of all beams, those of a prompt next to each other; None: every token may follow.

    Source: google-research/big_vision, trainers/proj/paligemma/predict_fns.py (`_beam_decode`).
    """

    def __init__(
        self, beams: int, steps: int, end: int, device: torch.device, limits: Limits | None = None
    ) -> None:
        self.copies = beams
        self._steps, self._end, self._limits = steps, end, limits
        self._place = torch.zeros(0, dtype=torch.long, device=device)
        self._live = torch.zeros((0, beams), device=device)
        self._tokens = torch.zeros((0, beams, steps), dtype=torch.long, device=device)
        self._chosen = torch.zeros((0, beams, steps), device=device)
        self._best = (self._live[:, 0], self._tokens[:, 0], self._chosen[:, 0])

    def __len__(self) -> int:
        return len(self._live)

    def join(self, count: int, automata: Sequence[Automaton] | None = None) -> None:
        """Add prompts after those that are there."""
        # One beam of each prompt at first: the others would be the same.
        live = self._live.new_full((count, self.copies), -torch.inf)
        live[:, 0] = 0
        tokens = self._tokens.new_zeros((count, self.copies, self._steps))
        chosen = self._chosen.new_zeros(tokens.shape)
        total, ended, probabilities = self._best
        self._place = torch.cat([self._place, self._place.new_zeros(count)])
        self._live = torch.cat([self._live, live])
        self._tokens = torch.cat([self._tokens, tokens])
        self._chosen = torch.cat([self._chosen, chosen])
        self._best = (
            torch.cat([total, live.new_full((count,), -torch.inf)]),
            torch.cat([ended, tokens[:, 0]]),
            torch.cat([probabilities, chosen[:, 0]]),
        )
        if self._limits is not None and automata is not None:
            self._limits.join(automata)

    def choose(self, logits: Tensor) -> Choice:
        """Let every beam end, and continue the best of them; see `Search`."""
        size, beams = self._live.shape
        scores = logits.float().log_softmax(-1)
        scores = (scores if self._limits is None else self._limits.mask(scores)).view(size, beams, -1)
        self._best = _keep_better(self._let_end(scores[..., self._end]), self._best)
        scores[..., self._end] = -torch.inf
        self._live, index = (self._live[..., None] + scores).flatten(1).topk(beams)
        parent, token = index // scores.shape[-1], index % scores.shape[-1]
        self._tokens, self._chosen = (_select(table, parent) for table in (self._tokens, self._chosen))
        place = self._place[:, None, None].expand(size, beams, 1)
        self._tokens.scatter_(2, place, token[..., None])
        self._chosen.scatter_(2, place, scores.flatten(1).gather(1, index)[..., None])
        self._place = self._place + 1
        done = (self._place == self._steps) | (self._live[:, 0] < self._best[0])
        rows = (parent + beams * torch.arange(size, device=parent.device)[:, None]).flatten()
        if self._limits is not None:
            self._limits.advance(token.flatten().tolist(), rows.tolist())
        return Choice(token.flatten(), rows, done.nonzero()[:, 0].tolist())

    def take(self, number: int) -> Spoken:
        """Return the answer to a prompt that has ended."""
        tokens = self._best[1][number].tolist()
        count = tokens.index(self._end) + 1
        return Spoken(tokens[:count], self._best[2][number, :count].exp().tolist())

    def keep(self, numbers: Sequence[int]) -> None:
        """Keep these prompts, and drop the others."""
        kept = torch.tensor(numbers, dtype=torch.long, device=self._live.device)
        self._place, self._live = self._place[kept], self._live[kept]
        self._tokens, self._chosen = self._tokens[kept], self._chosen[kept]
        self._best = (self._best[0][kept], self._best[1][kept], self._best[2][kept])
        if self._limits is not None:
            beams = range(self.copies)
            self._limits.keep([number * self.copies + beam for number in numbers for beam in beams])

    def _let_end(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """End every beam here, and return the likeliest of each prompt.

        Args:
            scores: log-probability of EOS in each beam: (B, beams).

        Returns:
            Its sum (B,), tokens (B, steps) and their log-probabilities (B, steps).
        """
        total, which = (self._live + scores).max(1)
        ended, chosen = (_select(table, which[:, None])[:, 0] for table in (self._tokens, self._chosen))
        place = self._place[:, None]
        ended.scatter_(1, place, self._end)
        chosen.scatter_(1, place, scores.gather(1, which[:, None]))
        return total, ended, chosen


def _keep_better(
    ended: tuple[Tensor, Tensor, Tensor], best: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each prompt the hypothesis of the higher sum: its sum, tokens and log-probabilities."""
    better = ended[0] > best[0]
    return (
        torch.where(better, ended[0], best[0]),
        torch.where(better[:, None], ended[1], best[1]),
        torch.where(better[:, None], ended[2], best[2]),
    )


def _select(table: Tensor, places: Tensor) -> Tensor:
    """Return a copy of the beams at the places: (B, n) of (B, beams, steps) gives (B, n, steps)."""
    return table.gather(1, places[..., None].expand(-1, -1, table.shape[2]))
